// QR codes (ISO/IEC 18004) of links: bytes, up to version 10, error correction L.

import { h } from './dom.js';

/** By version: all codewords, those for error correction in each block, and the number of blocks. */
const VERSIONS = [
  [26, 7, 1], [44, 10, 1], [70, 15, 1], [100, 20, 1], [134, 26, 1],
  [172, 18, 2], [196, 20, 2], [242, 24, 2], [292, 30, 2], [346, 18, 4],
];
const ALIGNED = [[], [6, 18], [6, 22], [6, 26], [6, 30], [6, 34], [6, 22, 38], [6, 24, 42], [6, 26, 46], [6, 28, 50]];
const MASKS = [
  (y, x) => (y + x) % 2, (y) => y % 2, (y, x) => x % 3, (y, x) => (y + x) % 3,
  (y, x) => (Math.floor(y / 2) + Math.floor(x / 3)) % 2, (y, x) => ((y * x) % 2) + ((y * x) % 3),
  (y, x) => (((y * x) % 2) + ((y * x) % 3)) % 2, (y, x) => (((y + x) % 2) + ((y * x) % 3)) % 2,
];

const EXP = [];
const LOG = [];
for (let i = 0, value = 1; i < 255; i += 1) {
  EXP[i] = EXP[i + 255] = value;
  LOG[value] = i;
  value = value << 1 ^ (value > 127 ? 0x11d : 0);
}

function times(a, b) {
  return a && b && EXP[LOG[a] + LOG[b]];
}

/** The Reed-Solomon error correction codewords. */
function correction(data, length) {
  let generator = [1];
  for (let i = 0; i < length; i += 1) {
    const next = [...generator, 0];
    generator.forEach((factor, j) => { next[j + 1] ^= times(factor, EXP[i]); });
    generator = next;
  }
  const rest = [...data, ...Array(length).fill(0)];
  for (let i = 0; i < data.length; i += 1) {
    const lead = rest[i];
    generator.forEach((factor, j) => { rest[i + j] ^= times(factor, lead); });
  }
  return rest.slice(data.length);
}

/** All codewords, in drawing order. */
function codewords(bytes, version) {
  const [total, perBlock, blocks] = VERSIONS[version - 1];
  const room = total - perBlock * blocks;
  const bits = [];
  const put = (value, length) => {
    for (let i = length - 1; i >= 0; i -= 1) bits.push(value >> i & 1);
  };
  put(4, 4);
  put(bytes.length, version < 10 ? 8 : 16);
  for (const byte of bytes) put(byte, 8);
  put(0, Math.min(4, 8 * room - bits.length));
  while (bits.length % 8) bits.push(0);
  for (let pad = 0xec; bits.length < 8 * room; pad ^= 0xec ^ 0x11) put(pad, 8);
  const data = Array.from({ length: room }, (_, i) => bits.slice(8 * i, 8 * i + 8).reduce((sum, bit) => 2 * sum + bit, 0));

  const short = Math.floor(room / blocks);
  const parts = [];
  for (let i = 0, start = 0; i < blocks; i += 1) {
    const length = short + (i >= blocks - (room % blocks) ? 1 : 0);
    parts.push(data.slice(start, start + length));
    start += length;
  }
  const checks = parts.map((part) => correction(part, perBlock));
  const drawn = [];
  for (let i = 0; i <= short; i += 1) for (const part of parts) if (i < part.length) drawn.push(part[i]);
  for (let i = 0; i < perBlock; i += 1) for (const check of checks) drawn.push(check[i]);
  return drawn;
}

/** The fixed modules of a version: 1 dark, 0 light; undefined for data. */
function frame(version) {
  const size = 17 + 4 * version;
  const grid = Array.from({ length: size }, () => Array(size));
  const stamp = (top, left, from, to, colour) => {
    for (let y = from; y <= to; y += 1) {
      for (let x = from; x <= to; x += 1) {
        if (grid[top + y] && left + x >= 0 && left + x < size) grid[top + y][left + x] = colour(Math.max(Math.abs(y), Math.abs(x)));
      }
    }
  };
  for (let i = 8; i < size - 8; i += 1) grid[6][i] = grid[i][6] = 1 - i % 2;
  for (const [y, x] of [[3, 3], [3, size - 4], [size - 4, 3]]) stamp(y, x, -4, 4, (ring) => Number(ring !== 2 && ring !== 4));
  const centres = ALIGNED[version - 1];
  for (const y of centres) {
    for (const x of centres) {
      const isCorner = (y === 6 || y === size - 7) && (x === 6 || x === size - 7) && !(y === size - 7 && x === size - 7);
      if (!isCorner) stamp(y, x, -2, 2, (ring) => Number(ring !== 1));
    }
  }
  writeFormat(grid, 0);
  if (version >= 7) {
    let rest = version;
    for (let i = 0; i < 12; i += 1) rest = rest << 1 ^ (rest >> 11) * 0x1f25;
    const bits = version << 12 | rest;
    for (let i = 0; i < 18; i += 1) {
      const [a, b] = [Math.floor(i / 3), size - 11 + i % 3];
      grid[a][b] = grid[b][a] = bits >> i & 1;
    }
  }
  return grid;
}

function writeFormat(grid, mask) {
  const size = grid.length;
  const data = 1 << 3 | mask; // 1: error correction L
  let rest = data;
  for (let i = 0; i < 10; i += 1) rest = rest << 1 ^ (rest >> 9) * 0x537;
  const bits = (data << 10 | rest) ^ 0x5412;
  for (let i = 0; i < 15; i += 1) {
    const bit = bits >> i & 1;
    grid[i < 6 ? i : i < 8 ? i + 1 : size - 15 + i][8] = bit;
    grid[8][i < 8 ? size - 1 - i : i < 9 ? 7 : 14 - i] = bit;
  }
  grid[size - 8][8] = 1;
}

function fill(grid, words, mask) {
  const size = grid.length;
  const bits = words.flatMap((word) => [7, 6, 5, 4, 3, 2, 1, 0].map((i) => word >> i & 1));
  const filled = grid.map((row) => [...row]);
  let next = 0;
  for (let right = size - 1, up = true; right > 0; right -= 2, up = !up) {
    if (right === 6) right = 5; // skip the timing pattern
    for (let i = 0; i < size; i += 1) {
      const y = up ? size - 1 - i : i;
      for (const x of [right, right - 1]) {
        if (grid[y][x] === undefined) filled[y][x] = (bits[next++] ?? 0) ^ Number(!MASKS[mask](y, x));
      }
    }
  }
  writeFormat(filled, mask);
  return filled;
}

/** The penalty score: long runs, squares, patterns like those of the corners, too much of one colour. */
function penalty(grid) {
  const columns = grid.map((_, x) => grid.map((row) => row[x]));
  let sum = 0;
  for (const line of [...grid, ...columns].map((row) => row.join(''))) {
    for (const [run] of line.matchAll(/0{5,}|1{5,}/g)) sum += run.length - 2;
    for (let i = 0; i + 11 <= line.length; i += 1) {
      if (['10111010000', '00001011101'].includes(line.slice(i, i + 11))) sum += 40;
    }
  }
  for (let y = 1; y < grid.length; y += 1) {
    for (let x = 1; x < grid.length; x += 1) {
      const corner = grid[y][x];
      if (grid[y - 1][x] === corner && grid[y][x - 1] === corner && grid[y - 1][x - 1] === corner) sum += 3;
    }
  }
  const dark = grid.flat().reduce((total, bit) => total + bit, 0) / grid.length ** 2;
  return sum + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
}

/**
 * The code of a text.
 *
 * @param {string} text
 * @param {number} [mask] - The mask pattern; by default the one with the lowest penalty.
 * @returns {(0 | 1)[][] | null} Rows of dark (1) and light; null if the text is too long: over 271 bytes.
 */
export function qrCode(text, mask) {
  const bytes = [...new TextEncoder().encode(text)];
  const fits = ([total, perBlock, blocks], i) => bytes.length + (i < 9 ? 2 : 3) <= total - perBlock * blocks;
  const version = VERSIONS.findIndex(fits) + 1;
  if (version === 0) return null;
  const grid = frame(version);
  const words = codewords(bytes, version);
  const codes = (mask === undefined ? MASKS.map((_, i) => i) : [mask]).map((number) => fill(grid, words, number));
  return codes.reduce((best, code) => (penalty(code) < penalty(best) ? code : best));
}

/** The code as an element, dark on light in any scheme, or null if the text is too long. */
export function qrImage(text, label) {
  const code = qrCode(text);
  if (code === null) return null;
  const size = code.length + 8; // with a margin of four
  const canvas = h('canvas', { 'class': 'qr', 'width': size * 8, 'height': size * 8, 'role': 'img', 'aria-label': label });
  const context = canvas.getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, size * 8, size * 8);
  context.fillStyle = '#000';
  code.forEach((row, y) => row.forEach((dark, x) => dark && context.fillRect((x + 4) * 8, (y + 4) * 8, 8, 8)));
  return canvas;
}
