"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const TOP = 254, SHOWN = 8, FAINTEST = 0.05, LEAST = 0.005;
const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function numbers(text, size) {
  const raw = bytes(text).buffer;
  return size === 1 ? new Uint8Array(raw) : size === 2 ? new Uint16Array(raw) : new Uint32Array(raw);
}

const weightOf = (level) => (level > TOP ? NaN : (level / TOP) ** 2);
const figure = (weight) => (isNaN(weight) ? "not a number" : weight.toFixed(2));

function ranked(length, weight) {
  return Array.from({ length }, (_, place) => [place, weight(place)])
    .filter(([, one]) => one > 0)
    .sort((a, b) => b[1] - a[1]);
}

// One text and its filters: of a long one, pooled maps, and the largest weights of the last queries.
class Text {
  constructor(given) {
    Object.assign(this, given);
    this.layers = given.layers.map((layer) => ({
      ...layer,
      levels: bytes(layer.levels),
      top: layer.top && { levels: bytes(layer.top.levels), keys: numbers(layer.top.keys, given.key_bytes) },
    }));
    this.count = given.tokens.length;
    this.whole = given.side === this.count;
    this.firstListed = this.whole ? 0 : this.count - given.top_rows;
  }

  shown(place) {
    return this.tokens[place].replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  }

  level(layer, head, row, column) {
    return this.layers[layer].levels[(head * this.side + row) * this.side + column];
  }

  weight(layer, head, row, column) {
    return weightOf(this.level(layer, head, row, column));
  }

  // Pairs of another token and the weight, largest first: where a query looks.
  looks(layer, head, query) {
    if (this.whole) return ranked(this.count, (key) => this.weight(layer, head, query, key));
    const { top } = this.layers[layer], row = query - this.firstListed;
    if (!top || row < 0) return null;
    const first = (head * this.top_rows + row) * this.top_k, found = [];
    for (let at = first; at < first + this.top_k; at++) found.push([top.keys[at], weightOf(top.levels[at])]);
    return found.filter(([, weight]) => weight > 0);
  }

  // And what looks at a key: of long texts, the queries that have it among their largest.
  seen(layer, head, key) {
    if (this.whole) return ranked(this.count, (query) => this.weight(layer, head, query, key));
    if (!this.layers[layer].top) return null;
    const found = [];
    for (let query = this.firstListed; query < this.count; query++) {
      for (const [other, weight] of this.looks(layer, head, query)) if (other === key) found.push([query, weight]);
    }
    return found.sort((a, b) => b[1] - a[1]);
  }

  // Whether some weights of a query are no numbers.
  isInvalid(layer, head, query) {
    if (this.whole) return this.tokens.some((_, key) => isNaN(this.weight(layer, head, query, key)));
    const row = query - this.firstListed, first = (head * this.top_rows + row) * this.top_k;
    return row >= 0 && this.layers[layer].top.levels.subarray(first, first + this.top_k).some((level) => level > TOP);
  }

  // The strongest heads from a query to a key.
  headsOf(query, key) {
    const found = [];
    this.layers.forEach((layer, index) => {
      for (let head = 0; head < layer.heads; head++) {
        const weight = (this.looks(index, head, query) ?? []).find(([place]) => place === key);
        if (weight) found.push([index, head, weight[1]]);
      }
    });
    return found.sort((a, b) => b[2] - a[2]);
  }

  // The tokens of a row or column of the map, which a pooled one has several of.
  span(place) {
    const first = Math.ceil((place * this.count) / this.side);
    const last = Math.ceil(((place + 1) * this.count) / this.side) - 1;
    const [from, to] = [first, last].map((one) => `“${this.shown(one).trim()}”`);
    return first === last ? from : `${from} … ${to}`;
  }
}

const texts = [new Text(data), ...(data.other ? [new Text(data.other)] : [])];
const layers = texts[0].layers, picture = data.image;

// The token of the other text that stands for one of this text, or null.
const partners = texts.map((_, which) => new Map((data.aligned ?? []).map((pair) => [pair[which], pair[1 - which]])));
const partner = (which, place) => (place === null ? null : partners[which].get(place) ?? null);

// Colours

let ramp = [], accents = [];
const pixels = new Uint32Array(256), changes = new Uint32Array(2 * TOP + 1);
const NO_NUMBER = { index: 2 * TOP + 1, pixel: 0 };

function colour(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
// A pixel is one number: red in the lowest byte, and all of alpha.
function pixel([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
function mixed(from, to, part) {
  return from.map((one, channel) => Math.round(one + (to[channel] - one) * part));
}
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = style.getPropertyValue("--ramp").trim().split(/\s+/).map(colour);
  ramp = Array.from({ length: TOP + 1 }, (_, level) => {
    const at = (level / TOP) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return mixed(stops[low], stops[low + 1], at - low);
  });
  const accent = colour(style.getPropertyValue("--oracle").trim());
  accents = Array.from({ length: TOP + 1 }, (_, level) => mixed(stops[0], accent, level / TOP));
  const invalid = colour(style.getPropertyValue("--invalid").trim());
  for (let level = 0; level < 256; level++) pixels[level] = pixel(level > TOP ? invalid : ramp[level]);
  for (let level = 0; level <= TOP; level++) {
    changes[TOP + level] = pixel(ramp[level]);
    changes[TOP - level] = pixel(accents[level]);
  }
  NO_NUMBER.pixel = pixel(invalid);
}

// Black or white, whichever is the easier to read on a colour.
function textOn(channels) {
  const [red, green, blue] = channels.map((one) => (one <= 10 ? one / 3294 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

function paintCells(canvas, high, wide, colourAt) {
  canvas.width = wide;
  canvas.height = high;
  const context = canvas.getContext("2d"), image = context.createImageData(wide, high);
  const cells = new Uint32Array(image.data.buffer);
  for (let row = 0; row < high; row++) {
    for (let column = 0; column < wide; column++) cells[row * wide + column] = colourAt(row, column);
  }
  context.putImageData(image, 0, 0);
}
