// What all pictures share: elements, tokens as labels, levels of weight as ink. Nothing here knows a run.

const TOP_LEVEL = 254;
const COARSE = 32;

/** Returns the bytes of a base64 text. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** Returns the bytes of a base64 text of what was deflated. */
async function inflated(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Adds up bytes over their first axis, modulo 256: what travels are the differences from one to the next. */
function summed(bytes, first) {
  const stride = bytes.length / first;
  for (let i = stride; i < bytes.length; i++) bytes[i] += bytes[i - stride];
  return bytes;
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

/** Writes a weight as what is known of it after rounding to one of 255 levels, or to one of 33. */
function weightText(level, coarse = false) {
  if (level > TOP_LEVEL) return "not a number";
  if (level === 0) return coarse ? "below 0.02" : "below 0.002";
  if (level === TOP_LEVEL) return coarse ? "above 0.98" : "above 0.998";
  return `≈ ${(level / TOP_LEVEL).toFixed(coarse ? 2 : 3)}`;
}

/** Writes the weight of a cell of a map as what is known of it: level n stands for the square of n / 254. */
function pooledText(level, coarse = false) {
  if (level > TOP_LEVEL) return "not a number";
  if (level === 0) return coarse ? "below 0.0003" : "below 0.00001";
  if (level === TOP_LEVEL) return coarse ? "above 0.97" : "above 0.996";
  return `≈ ${Number(((level / TOP_LEVEL) ** 2).toPrecision(coarse ? 1 : 2))}`;
}

/** Writes the weight of a cell of a filter. */
function cellText(filter, query, key) {
  if (!filter.visible(query, key)) return "masked";
  return (filter.pooled ? pooledText : weightText)(filter.level(query, key), filter.coarse);
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

/** Keeps numbers and their units on one line. */
function unbroken(text) {
  return text.replace(/(\d) (?=(%|nats|s|steps)(?![\p{L}\d]))/gu, "$1\u00a0");
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

function fillTable(table, titles, rows) {
  const head = element("tr");
  head.append(...(rows.length ? titles : []).map((title) => element("th", { scope: "col" }, title)));
  table.replaceChildren(head, ...rows);
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

/** Empties the picture of a holder, or makes it, and gives it its size and words; one that has the focus keeps it. */
function clearPicture(holder, width, height, words) {
  const svg = holder.querySelector("svg") ?? holder.appendChild(shape("svg", { role: "img", tabindex: "0" }));
  svg.replaceChildren();
  return fill(svg, { width, height, "aria-label": words });
}

function fontSize(gap) {
  return Math.max(7, Math.min(13, 0.78 * gap));
}

/** Names the three of `count` that have the largest levels above zero. */
function largest(count, level, words) {
  return Array.from({ length: count }, (_, i) => [level(i), i])
    .filter(([value]) => value > 0).sort((a, b) => b[0] - a[0]).slice(0, 3)
    .map(([, i]) => words(i)).join(", ") || "nothing";
}
