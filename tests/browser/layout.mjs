/**
 * The layout of a call's tiles: they do not overlap, stay within the window, and use most of it.
 *
 *     node layout.mjs
 */

import assert from 'node:assert/strict';

const { focusOf, gridOf, pairOf } = await import('../../trio_signal/browser/ui/layout.js');

const SIZES = [[1256, 700], [1880, 980], [374, 740], [700, 330], [320, 320]];

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

function check(boxes, width, height, what) {
  boxes.forEach((box, i) => {
    assert.ok(box.x >= 0 && box.y >= 0, what);
    assert.ok(box.x + box.width <= width + 1 && box.y + box.height <= height + 1, what);
    assert.ok(box.width > 0 && box.height > 0, what);
    for (const other of boxes.slice(i + 1)) assert.ok(!overlap(box, other), what);
  });
}

for (const [width, height] of SIZES) {
  for (let count = 1; count <= 12; count += 1) {
    const what = `${count} in ${width} x ${height}`;
    const grid = gridOf(count, width, height);
    check(grid, width, height, `grid of ${what}`);
    const used = grid.reduce((sum, box) => sum + box.width * box.height, 0) / (width * height);
    if (count > 1) assert.ok(used > 0.4, `grid of ${what} uses ${used.toFixed(2)}`);
    const focus = focusOf(count, width, height);
    check(focus, width, height, `focus of ${what}`);
    assert.ok(focus.every((box) => box.width * box.height <= focus[0].width * focus[0].height), what);
  }
  const [large, small] = pairOf(width, height);
  if (width / height > 1.25) {
    assert.deepEqual(large, { x: 0, y: 0, width, height });
    assert.ok(overlap(large, small) && small.width < width / 3);
  } else {
    check([large, small], width, height, 'pair');
  }
}
assert.deepEqual(gridOf(3, 0, 0).map(({ width }) => width), [0, 0, 0]);
