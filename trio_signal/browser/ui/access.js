// Asks for a login or, if the server has none, for a token.

import { h, HOME } from './dom.js';
import { icon } from './icons.js';

const KEPT = 'trio-signal:token'; // in sessionStorage: for this tab only
const PROBLEMS = {
  401: 'Wrong user name or password.',
  429: 'Too many failed logins. Try again later.',
  503: 'Too many logins at once. Try again in a moment.',
};

/**
 * What the server requires.
 *
 * @typedef {{ token: boolean, login: boolean }} Access
 */

/**
 * Asks the server what it requires.
 *
 * @param {string} [base] - The server's URL.
 * @returns {Promise<Access>}
 */
export async function askAccess(base = HOME) {
  const answer = await fetch(`${base}/auth/mode`);
  if (!answer.ok) throw new Error(`The server does not answer (${answer.status}).`);
  return answer.json();
}

/**
 * Returns the token of this tab: the one in the link's `#token=`, which is then removed from the
 * address, or the one that was last kept, or undefined. Only for the server's own pages: an embedded
 * element gets its token from its attribute, because the address of the page is not ours.
 */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1));
  const token = given.get('token');
  if (token !== null) {
    given.delete('token');
    const rest = String(given);
    history.replaceState(history.state, '', location.pathname + location.search + (rest && `#${rest}`));
    if (token) keepToken(token);
  }
  return recall();
}

/** Keeps a token for this tab; without one, forgets it. */
export function keepToken(token) {
  try {
    if (token) sessionStorage.setItem(KEPT, token);
    else sessionStorage.removeItem(KEPT);
  } catch { /* The browser stores nothing for this page, so the user will be asked again. */ }
}

function recall() {
  try {
    return sessionStorage.getItem(KEPT) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Whether an attempt failed because there was no valid token. */
export function isRefused(error) {
  return [1008, 4001].includes(error?.code) && /token|authentication/i.test(error.message);
}

/**
 * The form for a login or a token. Show it in place of the content that needs a token.
 *
 * @param {Access} access - What the server requires.
 * @param {object} options
 * @param {string} [options.base] - The server's URL.
 * @param {string} [options.problem] - Why the user is asked again.
 * @param {(token: string, name?: string) => void} options.onToken - Called when there is a token.
 * @returns {HTMLElement}
 */
export function accessForm(access, { base = HOME, problem = '', onToken }) {
  const trouble = h('p', { class: 'problem', role: 'alert' }, problem);
  const forms = [tokenForm(onToken)];
  if (access.login) {
    forms.unshift(loginForm(base, trouble, onToken));
    forms[1] = h('details', {}, h('summary', {}, 'Use a token instead'), h('div', { class: 'stack' }, forms[1]));
  }
  return h('section', { class: 'card access' },
    h('h1', { class: 'row' }, icon('lock'), access.login ? 'Log in' : 'Token'),
    h('p', { class: 'soft' }, 'This server requires a token.',
      access.login ? ' Log in to get one.' : ' Ask its operator for one.'),
    trouble, ...forms);
}

function tokenForm(onToken) {
  const token = h('input', {
    name: 'token', type: 'password', required: true, autocomplete: 'off', spellcheck: false,
  });
  const form = h('form', { class: 'stack' },
    h('label', {}, 'Token', token),
    h('button', { class: 'primary wide' }, 'Continue'));
  form.onsubmit = (event) => {
    event.preventDefault();
    onToken(token.value.trim());
  };
  return form;
}

function loginForm(base, trouble, onToken) {
  const name = h('input', {
    name: 'username', required: true, autocomplete: 'username', autocapitalize: 'none', spellcheck: false,
  });
  const password = h('input', {
    name: 'password', type: 'password', required: true, autocomplete: 'current-password',
  });
  const button = h('button', { class: 'primary wide' }, 'Log in');
  const form = h('form', { class: 'stack' },
    h('label', {}, 'User name', name), h('label', {}, 'Password', password), button);
  form.onsubmit = async (event) => {
    event.preventDefault();
    trouble.textContent = '';
    button.disabled = true;
    try {
      const { token, user } = await logIn(base, name.value.trim(), password.value);
      onToken(token, user.username);
    } catch (error) {
      trouble.textContent = error.message;
      password.select();
    } finally {
      button.disabled = false;
    }
  };
  return form;
}

async function logIn(base, username, password) {
  const answer = await fetch(`${base}/auth/login`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ username, password }),
  });
  if (answer.ok) return answer.json();
  throw new Error(PROBLEMS[answer.status] ?? `The login failed (${answer.status}).`);
}

/**
 * Gets a token. If one is required and missing, shows the form in `place` until the user has entered it.
 *
 * @param {HTMLElement} place
 * @param {object} [options]
 * @param {string} [options.base] - The server's URL.
 * @param {string} [options.problem] - Why the user is asked again; a kept token is then forgotten.
 * @param {boolean} [options.keeps] - Whether the tab keeps the token, and the link may contain one.
 * @param {() => void} [options.onAsk] - Called when the form is shown.
 * @param {(name: string) => void} [options.onName] - Called with the user's name after a login.
 * @returns {Promise<string | undefined>} The token; undefined if the server requires none.
 */
export async function openAccess(place, { base = HOME, problem = '', keeps = true, onAsk = () => {}, onName = () => {} } = {}) {
  if (problem && keeps) keepToken(undefined);
  const access = await askAccess(base);
  const kept = keeps ? takeToken() : undefined;
  if (kept !== undefined || !access.token) return access.token ? kept : undefined;
  return new Promise((resolve) => {
    const form = accessForm(access, {
      base,
      problem,
      onToken(token, name) {
        if (keeps) keepToken(token);
        if (name) onName(name);
        place.replaceChildren();
        resolve(token);
      },
    });
    place.replaceChildren(form);
    onAsk();
    if (keeps || problem) form.querySelector('input').focus();
  });
}
