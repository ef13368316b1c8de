// Node's own judgement of JSON texts. argv: a file with one text a line, in base64. Prints a JSON
// list: the meaning of each in a canonical form, or null where JSON.parse throws.
import fs from 'node:fs';
const bits = new DataView(new ArrayBuffer(8));
function canonical(value) {
  if (value === null) return 'n';
  if (typeof value === 'boolean') return value ? 't' : 'f';
  if (typeof value === 'number') { bits.setFloat64(0, value); return '#' + bits.getBigUint64(0).toString(16); }
  if (typeof value === 'string') return 's' + Buffer.from(value, 'utf16le').toString('hex');
  if (Array.isArray(value)) return '[' + value.map(canonical).join(',') + ']';
  return '{' + Object.keys(value).map((key) => canonical(key) + ':' + canonical(value[key])).sort().join(',') + '}';
}
const lines = fs.readFileSync(process.argv[2], 'utf8').split('\n').filter((line) => line !== '-');
console.log(JSON.stringify(lines.slice(0, -1).map((line) => {
  // As both gateways do with a frame and with a body.
  try { return canonical(JSON.parse(Buffer.from(line, 'base64').toString('utf8'))); } catch { return null; }
})));
