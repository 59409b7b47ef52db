// Icons: lines on a square of 24 units, in the colour of the surrounding text.

const PATHS = {
  mic: 'M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3ZM6 11a6 6 0 0 0 12 0M12 17v4M9 21h6',
  'mic-off': 'M9 9v2a3 3 0 0 0 4.6 2.5M15 11V6a3 3 0 0 0-5.8-1.1M6 11a6 6 0 0 0 9.2 5.1M17.6 13A6 6 0 0 0 18 11M12 17v4M9 21h6M4 3l16 18',
  camera: 'M5 7h8a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2ZM15 11l6-3.5v9L15 13',
  'camera-off': 'M9 7h4a2 2 0 0 1 2 2v4M14.6 16.4A2 2 0 0 1 13 17H5a2 2 0 0 1-2-2V9a2 2 0 0 1 1.4-1.9M15 11l6-3.5v9L17 14.2M4 3l16 18',
  screen: 'M5 4h14a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM8 21h8M12 13.5V7.5M9.3 10 12 7.3 14.7 10',
  'screen-off': 'M5 4h14a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM8 21h8M9.5 8l5 5M14.5 8l-5 5',
  chat: 'M5 4h14a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-8l-5 4v-4H5a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM8 8.5h8M8 12h5',
  people: 'M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM2.5 20a6.5 6.5 0 0 1 13 0M16 4.4a3.5 3.5 0 0 1 0 6.2M18.5 14.6A6.5 6.5 0 0 1 21.5 20',
  person: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20.5a7.5 7.5 0 0 1 15 0',
  leave: 'M3.2 14.6c-.5-1.3-.4-2.6.7-3.6 4.5-3.9 11.7-3.9 16.2 0 1.1 1 1.2 2.3.7 3.6-.2.6-.9.9-1.5.7l-3-.8a1.2 1.2 0 0 1-.9-1.2v-1.5a11 11 0 0 0-6.8 0v1.5a1.2 1.2 0 0 1-.9 1.2l-3 .8c-.6.2-1.3-.1-1.5-.7Z',
  more: 'M12 5.5v.01M12 12v.01M12 18.5v.01',
  full: 'M8 3.5H5A1.5 1.5 0 0 0 3.5 5v3M16 3.5h3A1.5 1.5 0 0 1 20.5 5v3M8 20.5H5A1.5 1.5 0 0 1 3.5 19v-3M16 20.5h3a1.5 1.5 0 0 0 1.5-1.5v-3',
  'full-off': 'M3.5 8H7a1 1 0 0 0 1-1V3.5M20.5 8H17a1 1 0 0 1-1-1V3.5M3.5 16H7a1 1 0 0 1 1 1v3.5M20.5 16H17a1 1 0 0 0-1 1v3.5',
  link: 'M10 14a4 4 0 0 0 5.7 0l3.6-3.6a4 4 0 0 0-5.7-5.7l-1.3 1.3M14 10a4 4 0 0 0-5.7 0l-3.6 3.6a4 4 0 0 0 5.7 5.7l1.3-1.3',
  copy: 'M10 8h9a1.5 1.5 0 0 1 1.5 1.5v9A1.5 1.5 0 0 1 19 20h-9a1.5 1.5 0 0 1-1.5-1.5v-9A1.5 1.5 0 0 1 10 8ZM5.5 16A2 2 0 0 1 3.5 14V5.5A1.5 1.5 0 0 1 5 4h9a2 2 0 0 1 2 1.5',
  qr: 'M4 4h6v6H4ZM14 4h6v6h-6ZM4 14h6v6H4ZM14 14h2.5v2.5H14ZM20 14v2.5M17.5 20H20M14 20v-.5M20 20v-.5',
  settings: 'M4 7h8M18 7h2M4 17h2M12 17h8M15 9.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5ZM9 19.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5Z',
  speaker: 'M4 9.5h3L12 5v14l-5-4.5H4ZM15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a7.8 7.8 0 0 1 0 11',
  'speaker-off': 'M4 9.5h3L12 5v14l-5-4.5H4ZM16 9.5l5 5M21 9.5l-5 5',
  play: 'M7 4.5v15l12.5-7.5Z',
  pause: 'M8 5v14M16 5v14',
  stop: 'M6.5 6.5h11v11h-11Z',
  send: 'M3.5 11 20.5 3.5 14 20.5l-3-7.5ZM11 13l4-4',
  close: 'M6 6l12 12M18 6 6 18',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  flip: 'M4 12a8 8 0 0 1 13.7-5.6L20 8.7M20 4v4.7h-4.7M20 12a8 8 0 0 1-13.7 5.6L4 15.3M4 20v-4.7h4.7',
  eye: 'M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12ZM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z',
  clock: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 7v5l3.5 2',
  lock: 'M6.5 10.5h11A1.5 1.5 0 0 1 19 12v7a1.5 1.5 0 0 1-1.5 1.5h-11A1.5 1.5 0 0 1 5 19v-7a1.5 1.5 0 0 1 1.5-1.5ZM8 10.5V7.5a4 4 0 0 1 8 0v3M12 14.5v2',
  info: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 11v5.5M12 7.5v.01',
  warning: 'M12 4 2.8 19.5h18.4ZM12 10v4.5M12 17v.01',
  announce: 'M4 10v4h3l9 4.5v-13L7 10ZM8 14.5 9.5 20M19 9.5a4 4 0 0 1 0 5',
  live: 'M12 14a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM8.1 15.9a5.5 5.5 0 0 1 0-7.8M15.9 8.1a5.5 5.5 0 0 1 0 7.8M5.3 18.7a9.5 9.5 0 0 1 0-13.4M18.7 5.3a9.5 9.5 0 0 1 0 13.4',
  list: 'M9 6h11M9 12h11M9 18h11M4.5 6v.01M4.5 12v.01M4.5 18v.01',
  phone: 'M8 3h8a1.5 1.5 0 0 1 1.5 1.5v15A1.5 1.5 0 0 1 16 21H8a1.5 1.5 0 0 1-1.5-1.5v-15A1.5 1.5 0 0 1 8 3ZM11 18h2',
  next: 'M5 12h14M13 6l6 6-6 6',
  back: 'M19 12H5M11 6l-6 6 6 6',
  down: 'M6 9l6 6 6-6',
  pin: 'M9 3.5h6l-.8 6L17.5 13h-11l3.3-3.5ZM12 13v7.5',
  grid: 'M4 4h6.5v6.5H4ZM13.5 4H20v6.5h-6.5ZM4 13.5h6.5V20H4ZM13.5 13.5H20V20h-6.5Z',
  keyboard: 'M4 6h16a1.5 1.5 0 0 1 1.5 1.5v9A1.5 1.5 0 0 1 20 18H4a1.5 1.5 0 0 1-1.5-1.5v-9A1.5 1.5 0 0 1 4 6ZM6.5 10v.01M10 10v.01M14 10v.01M17.5 10v.01M8 14h8',
  trash: 'M4.5 7h15M9.5 7V4.5h5V7M6.5 7l1 13h9l1-13M10 11v5M14 11v5',
};

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An icon, as an SVG element. It is hidden from screen readers, so a text beside it or the `aria-label`
 * of its button must say what it means.
 *
 * @param {keyof typeof PATHS} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  for (const [key, value] of Object.entries({
    'viewBox': '0 0 24 24', 'fill': 'none', 'stroke': 'currentColor', 'stroke-width': 1.75,
    'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'class': 'icon', 'aria-hidden': 'true',
  })) svg.setAttribute(key, value);
  if (['more', 'list', 'keyboard', 'info', 'warning'].includes(name)) svg.setAttribute('stroke-width', 2);
  svg.dataset.icon = name;
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/**
 * One or two letters that fill the available space.
 *
 * @returns {SVGSVGElement}
 */
export function drawLetters(letters) {
  const svg = document.createElementNS(SVG, 'svg');
  const text = document.createElementNS(SVG, 'text');
  svg.setAttribute('viewBox', '0 0 100 100');
  for (const [key, value] of Object.entries({
    'x': 50, 'y': 51, 'font-size': 38, 'fill': 'currentColor', 'text-anchor': 'middle', 'dominant-baseline': 'central',
  })) text.setAttribute(key, value);
  text.textContent = letters;
  svg.append(text);
  return svg;
}

/** Replaces the icon in `element`. */
export function changeIcon(element, name) {
  const before = element.querySelector('svg.icon');
  if (before?.dataset.icon === name) return;
  if (before) before.replaceWith(icon(name));
  else element.prepend(icon(name));
}
