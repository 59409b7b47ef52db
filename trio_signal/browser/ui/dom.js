// Elements in one call, and style sheets for what is inside an element of ours.

/**
 * A new element. What begins with `on`, and what the element has as a property, is set as one; the
 * rest are attributes. False, null and undefined leave an attribute out. Children are nodes or text,
 * never HTML: names and messages come from strangers.
 *
 * @param {string} tag
 * @param {Record<string, any>} [given]
 * @param {...(Node | string | number | null | undefined | false)} children
 * @returns {HTMLElement}
 */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === 'class') element.className = value;
    else if (name in element && !name.startsWith('aria') && name !== 'list') element[name] = value;
    else set(element, name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets an attribute, or takes it away: by false, null and undefined. */
export function set(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? '' : value);
}

/** Writes a text where it differs: what does not change is neither painted nor read out again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const sheets = new Map();

/**
 * Style sheets of this folder, for `adoptedStyleSheets`. An element waits for them before it is
 * defined, so that it is never seen without; and no page must allow inline styles for it.
 *
 * @param {...string} names
 * @returns {Promise<CSSStyleSheet[]>}
 */
export function loadSheets(...names) {
  return Promise.all(names.map((name) => {
    if (!sheets.has(name)) sheets.set(name, loadSheet(name));
    return sheets.get(name);
  }));
}

async function loadSheet(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return new CSSStyleSheet().replace(await answer.text());
}

/** Where the server is that this module came from. */
export const HOME = new URL('..', import.meta.url).href.replace(/\/$/, '');
