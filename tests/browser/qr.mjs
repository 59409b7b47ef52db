// Prints the codes of the texts in the arguments, as rows of 0 and 1: node qr.mjs FOLDER TEXT...

import { readFile, writeFile } from 'node:fs/promises';

const [folder, ...texts] = process.argv.slice(2);
await writeFile(`${folder}/dom.mjs`, 'export const h = null;');
const source = await readFile(new URL('../../trio_signal/browser/ui/qr.js', import.meta.url), 'utf8');
await writeFile(`${folder}/qr.mjs`, source.replace('./dom.js', './dom.mjs'));
const { qrCode } = await import(`${folder}/qr.mjs`);
console.log(JSON.stringify(texts.map((text) => [0, 1, 2, 3, 4, 5, 6, 7].map((mask) => qrCode(text, mask)))));
