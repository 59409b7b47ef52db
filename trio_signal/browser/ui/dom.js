// Makes elements, and loads style sheets for custom elements.

/**
 * Makes an element. Names that begin with `on`, or that are properties of the element, are set as
 * properties; all others are attributes. False, null and undefined omit an attribute. Children are
 * nodes or text, never HTML: names and messages are untrusted.
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

/** Sets an attribute; false, null and undefined remove it. */
export function set(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? '' : value);
}

/** Sets a text only if it differs, so that it is not painted or read out again needlessly. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const sheets = new Map();

/**
 * Loads style sheets of this folder, for `adoptedStyleSheets`. An element waits for them before it is
 * defined, so it is never shown without styles, and pages need not allow inline styles.
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

/** The URL of the server that this module came from. */
export const HOME = new URL('..', import.meta.url).href.replace(/\/$/, '');
