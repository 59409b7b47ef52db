// The layout of the tiles of a call. Pure: sizes in, boxes out.

const WIDEST = 16 / 9;
const NARROWEST = 1; // a square shows a little more than half of a 16:9 video
const GAP = 8;
/** From this ratio of width to height on, two people are shown as a large video and a small own one. */
const LYING = 1.25;

/**
 * @typedef {{ x: number, y: number, width: number, height: number }} Box
 */

/**
 * The grid with the largest possible `count` boxes. The last row is centred.
 *
 * @returns {Box[]}
 */
export function gridOf(count, width, height) {
  let best = { area: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const cell = fit((width - GAP * (columns - 1)) / columns, (height - GAP * (rows - 1)) / rows);
    const area = cell.width * cell.height;
    if (area > best.area) best = { area, columns, rows, ...cell };
  }
  if (!best.area) return Array.from({ length: count }, () => ({ x: 0, y: 0, width: 0, height: 0 }));
  const top = (height - best.rows * best.height - (best.rows - 1) * GAP) / 2;
  return Array.from({ length: count }, (_, i) => {
    const row = Math.floor(i / best.columns);
    const inRow = Math.min(best.columns, count - row * best.columns);
    const left = (width - inRow * best.width - (inRow - 1) * GAP) / 2;
    return whole({
      x: left + (i % best.columns) * (best.width + GAP), y: top + row * (best.height + GAP),
      width: best.width, height: best.height,
    });
  });
}

/** The largest box that fits, with an aspect ratio that is allowed for video of people. */
function fit(width, height) {
  if (width <= 0 || height <= 0) return { width: 0, height: 0 };
  if (width / height > WIDEST) return { width: height * WIDEST, height };
  if (width / height < NARROWEST) return { width, height: width / NARROWEST };
  return { width, height };
}

/**
 * One large box, with the others beside it or, in portrait format, below it.
 *
 * @returns {Box[]} The large one first. Boxes that do not fit have no size.
 */
export function focusOf(count, width, height) {
  if (count === 1) return [{ x: 0, y: 0, width, height }];
  const others = count - 1;
  const isLying = width > height;
  const side = isLying ? clamp(width * 0.2, 120, 240) : clamp(height * 0.18, 72, 130);
  const large = isLying
    ? { x: 0, y: 0, width: width - side - GAP, height }
    : { x: 0, y: 0, width, height: height - side - GAP };
  const [length, across] = isLying ? [height, side] : [width, side];
  const each = Math.min((length - GAP * (others - 1)) / others, isLying ? across / WIDEST : across * WIDEST);
  const all = others * each + (others - 1) * GAP;
  const start = (length - all) / 2;
  const strip = Array.from({ length: others }, (_, i) => {
    const along = start + i * (each + GAP);
    return isLying
      ? { x: width - side, y: along, width: side, height: each }
      : { x: along, y: height - side, width: each, height: side };
  });
  return [large, ...strip].map(whole);
}

/**
 * Two people: the other one large, and the user small in the corner; in portrait format a grid.
 *
 * @returns {Box[]} The other one first.
 */
export function pairOf(width, height) {
  if (width / height < LYING) return gridOf(2, width, height);
  const small = clamp(width * 0.2, 120, 256);
  const large = { x: 0, y: 0, width, height };
  const own = { width: small, height: small / WIDEST };
  return [large, { ...own, x: width - own.width - 16, y: height - own.height - 16 }].map(whole);
}

function whole({ x, y, width, height }) {
  return { x: Math.round(x), y: Math.round(y), width: Math.max(0, Math.floor(width)), height: Math.max(0, Math.floor(height)) };
}

function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}
