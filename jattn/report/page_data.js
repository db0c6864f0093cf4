// The run, as the page's JSON has it, and what can be read from it.

const run = JSON.parse(document.getElementById("data").textContent);
const TOP_LEVEL = 254;

/** Returns the bytes of a base64 text. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

for (const weights of run.weights) weights.levels = bytesOf(weights.levels);

/**
 * Returns one filter: its tokens, and level(query, key), 0 to 254 for weight 0 to 1, 255 for what is not a number.
 *
 * Of one that is pooled, `queries` and `keys` are the bins of its map, each with the positions that it holds; `tokens`
 * are the tokens of either kind.
 */
function filterAt(snapshot, example, layer, head) {
  const { shape, levels } = run.weights[layer];
  const [, examples, heads, rows, columns] = shape;
  const start = ((snapshot * examples + example) * heads + head) * rows * columns;
  const { sequences } = run.examples[example];
  const { pooled, ...sides } = run.layers[layer];
  const tokens = { queries: sequences[sides.queries], keys: sequences[sides.keys] };
  const level = (query, key) => levels[start + query * columns + key];
  if (!pooled) return { ...tokens, tokens, level, pooled };
  const [queries, keys] = [binsOf(rows, tokens.queries.length), binsOf(columns, tokens.keys.length)];
  return { queries, keys, tokens, level, pooled };
}

/** Returns mass, hit rate and entropy of one filter; null for what is not known. */
function measuresAt(snapshot, example, layer, head) {
  const measures = run.measures[layer][snapshot][example];
  return { mass: measures.mass[head], hitRate: measures.hit_rate[head], entropy: measures.entropy[head] };
}

/** Tells whether a query of a layer is scored; where the oracle is silent on the layer, none is. */
function isScored(example, layer, query) {
  return run.layers[layer].oracle && run.examples[example].scored[query];
}

/** Returns the keys that hold the answer of a query; none where the layer or the query has no oracle. */
function oracleKeys(example, layer, query) {
  return isScored(example, layer, query) ? run.examples[example].oracle[query] : [];
}

/** Returns the answer at a query, or nothing where the layer's queries are not those of the inputs. */
function answerAt(example, layer, query) {
  return run.layers[layer].queries === "inputs" ? run.examples[example].targets[query] : "";
}

/** Returns the bins of `count` positions on an axis of the map: the first and the last position of each. */
function binsOf(axis, count) {
  const bins = Math.min(axis, count);
  const start = (bin) => Math.ceil((bin * count) / bins);
  return Array.from({ length: bins }, (_, bin) => ({ first: start(bin), last: start(bin + 1) - 1 }));
}

/** Returns the bin that holds a position. */
function binAt(bins, position) {
  return Math.floor((position * bins.length) / (bins.at(-1).last + 1));
}

/** Writes which positions a bin holds. */
function binText({ first, last }) {
  return first === last ? String(first) : `${first}–${last}`;
}

/** Writes a weight as what is known of it after rounding to one of 255 levels. */
function weightText(level) {
  if (level > TOP_LEVEL) return "not a number";
  if (level === 0) return "below 0.002";
  if (level === TOP_LEVEL) return "above 0.998";
  return `≈ ${(level / TOP_LEVEL).toFixed(3)}`;
}

/** Shortens a token to a printable label. */
function tokenLabel(token, limit = 6) {
  const letters = Array.from(token, (letter) => (/[\p{C}\p{Zl}\p{Zp}]/u.test(letter) ? "·" : letter));
  if (letters.length && letters.every((letter) => /\s/u.test(letter))) return "␣";
  return letters.length <= limit ? letters.join("") : letters.slice(0, limit - 1).join("") + "…";
}

/** Quotes a token inside a sentence: printable, cut if very long, and its direction kept to itself. */
function quoted(token) {
  return `“\u2068${tokenLabel(token, 60)}\u2069”`;
}

/** Writes a measure, or a dash where there is none. */
function measureText(value, digits) {
  return value === null ? "–" : value.toFixed(digits);
}

/** Makes an HTML element; text only ever becomes text. */
function element(name, attributes = {}, text = "") {
  return fill(document.createElement(name), attributes, text);
}

/** Makes an SVG element. */
function shape(name, attributes = {}, text = "") {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, text);
}

function fill(node, attributes, text) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

/** Returns the colours of levels 0 to 255, from the style's ramp, as pixels of a canvas. */
function levelColours() {
  const style = getComputedStyle(document.documentElement);
  const read = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  const stops = style.getPropertyValue("--ramp").trim().split(/\s+/).map(read);
  const ramp = Array.from({ length: TOP_LEVEL + 1 }, (_, level) => {
    const at = (level / TOP_LEVEL) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((channel, i) => Math.round(channel + (at - low) * (stops[low + 1][i] - channel)));
  });
  const pixels = [...ramp, read(style.getPropertyValue("--invalid").trim())].flatMap((colour) => [...colour, 255]);
  return new Uint32Array(Uint8Array.from(pixels).buffer);
}

/** Paints a grid of levels on a canvas, one pixel per cell. */
function paint(canvas, rows, columns, level, colours) {
  Object.assign(canvas, { width: columns, height: rows });
  const pixels = new Uint32Array(rows * columns);
  for (let i = 0, row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) pixels[i++] = colours[level(row, column)];
  }
  const image = new ImageData(new Uint8ClampedArray(pixels.buffer), columns, rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
