"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const TOP = 254, SHOWN = 8, FAINTEST = 0.05, LEAST = 0.005;
const byId = (id) => document.getElementById(id);
const page = byId("see");
const state = { layer: 0, head: 0, query: null, key: null, kept: false, way: "looks", view: "map", kind: null };

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

// Each layer: its heads' pictures, and of long texts the largest weights of the last queries.
const layers = data.layers.map((layer) => ({
  ...layer,
  levels: bytes(layer.levels),
  top: layer.top && { levels: bytes(layer.top.levels), keys: numbers(layer.top.keys, data.key_bytes) },
}));
const tokens = data.tokens, count = tokens.length, side = data.side, whole = side === count;
const firstListed = whole ? 0 : count - data.top_rows;
const shown = (place) => tokens[place].replace(/\n/g, "⏎").replace(/\t/g, "⇥");

const weightOf = (level) => (level > TOP ? NaN : (level / TOP) ** 2);
const figure = (weight) => (isNaN(weight) ? "not a number" : weight.toFixed(2));

function cell(layer, head, row, column) {
  return weightOf(layers[layer].levels[(head * side + row) * side + column]);
}

// Pairs of another token and the weight, largest first: where a query looks.
function looks(layer, head, query) {
  if (whole) return ranked(count, (key) => cell(layer, head, query, key));
  const { top } = layers[layer], row = query - firstListed;
  if (!top || row < 0) return null;
  const first = (head * data.top_rows + row) * data.top_k, found = [];
  for (let at = first; at < first + data.top_k; at++) found.push([top.keys[at], weightOf(top.levels[at])]);
  return found.filter(([, weight]) => weight > 0);
}

// And what looks at a key: of long texts, the queries that have it among their largest.
function seen(layer, head, key) {
  if (whole) return ranked(count, (query) => cell(layer, head, query, key));
  if (!layers[layer].top) return null;
  const found = [];
  for (let query = firstListed; query < count; query++) {
    for (const [other, weight] of looks(layer, head, query)) if (other === key) found.push([query, weight]);
  }
  return found.sort((a, b) => b[1] - a[1]);
}

function ranked(length, weight) {
  return Array.from({ length }, (_, place) => [place, weight(place)])
    .filter(([, one]) => one > 0)
    .sort((a, b) => b[1] - a[1]);
}

// Whether some weights of a query are no numbers.
function isInvalid(layer, head, query) {
  if (whole) return tokens.some((_, key) => isNaN(cell(layer, head, query, key)));
  const row = query - firstListed, first = (head * data.top_rows + row) * data.top_k;
  return row >= 0 && layers[layer].top.levels.subarray(first, first + data.top_k).some((level) => level > TOP);
}

// The strongest heads from a query to a key.
function headsOf(query, key) {
  const found = [];
  layers.forEach((layer, index) => {
    for (let head = 0; head < layer.heads; head++) {
      const weight = (looks(index, head, query) ?? []).find(([place]) => place === key);
      if (weight) found.push([index, head, weight[1]]);
    }
  });
  return found.sort((a, b) => b[2] - a[2]);
}

// Colours

let ramp = [];
const pixels = new Uint32Array(256);
function colour(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = style.getPropertyValue("--ramp").trim().split(/\s+/).map(colour);
  ramp = Array.from({ length: TOP + 1 }, (_, level) => {
    const at = (level / TOP) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((one, channel) => Math.round(one + (stops[low + 1][channel] - one) * (at - low)));
  });
  const invalid = colour(style.getPropertyValue("--invalid").trim());
  // A pixel is one number: red in the lowest byte, and all of alpha.
  for (let level = 0; level < 256; level++) {
    const [red, green, blue] = level > TOP ? invalid : ramp[level];
    pixels[level] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
}

function paint(canvas, layer, head) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), image = context.createImageData(side, side);
  const cells = new Uint32Array(image.data.buffer), first = head * side * side;
  for (let at = 0; at < side * side; at++) cells[at] = pixels[layers[layer].levels[first + at]];
  context.putImageData(image, 0, 0);
}

// The grid of heads, and the kinds of heads

function buildGrid() {
  layers.forEach((layer, index) => {
    const row = make("div", "layer");
    row.append(make("span", "name", layer.label));
    for (let head = 0; head < layer.heads; head++) {
      const button = make("button", "head");
      button.append(make("canvas"), make("span", "word", layer.words[head]));
      button.title = `${layer.name}, head ${head}: ${layer.words[head]}`;
      button.setAttribute("aria-label", button.title);
      button.addEventListener("click", () => update({ layer: index, head }));
      row.append(button);
    }
    byId("grid").append(row);
  });
}

function buildKinds() {
  const counts = new Map();
  for (const layer of layers) for (const word of layer.words) counts.set(word, (counts.get(word) ?? 0) + 1);
  for (const [word, number] of [...counts].sort((a, b) => b[1] - a[1])) {
    const button = make("button", "", `${word} ${number}`);
    button.dataset.kind = word;
    button.addEventListener("click", () => update({ kind: state.kind === word ? null : word }));
    byId("kinds").append(button);
  }
}

// The text

const words = [];

function buildText() {
  const text = byId("text");
  text.classList.toggle("spaced", !data.joined);
  tokens.forEach((token, place) => {
    const button = make("button", place >= data.written ? "token written" : "token", shown(place));
    button.addEventListener("mouseenter", () => state.kept || update({ query: place }));
    button.addEventListener("click", () => {
      if (state.kept && state.query !== null && state.query !== place) return update({ key: place });
      update({ query: place, key: null, kept: !state.kept });
    });
    text.append(button, ...(token.includes("\n") ? [make("br")] : []));
    words.push(button);
  });
}

function drawText() {
  const { layer, head, query, way } = state;
  const found = query === null ? null : (way === "looks" ? looks : seen)(layer, head, query);
  const ink = new Map(found ?? []);
  for (let place = 0; place < count; place++) {
    const level = Math.round(Math.sqrt(ink.get(place) ?? 0) * TOP);
    words[place].style.backgroundColor = level > 8 ? `rgb(${ramp[level].join(" ")})` : "";
    words[place].classList.toggle("strong", level > TOP * 0.6);
    words[place].classList.toggle("here", place === query);
  }
}

// The chosen head

function drawLines() {
  const box = byId("lines"), name = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const { layer, head, query } = state, step = 17, wide = 500, left = 170, right = 330;
  const svg = name("svg");
  svg.setAttribute("viewBox", `0 0 ${wide} ${count * step + 8}`);
  for (let place = firstListed; place < count; place++) {
    if (query !== null && state.kept && place !== query) continue;
    for (const [key, weight] of (looks(layer, head, place) ?? []).filter(([, one]) => one >= FAINTEST)) {
      const line = name("line");
      const ends = { x1: left, y1: place * step + 12, x2: right, y2: key * step + 12 };
      for (const [end, at] of Object.entries(ends)) line.setAttribute(end, at);
      line.setAttribute("stroke-opacity", query === null || place === query ? weight.toFixed(2) : (weight / 4).toFixed(2));
      line.setAttribute("stroke-width", place === query ? 2.5 : 1.2);
      svg.append(line);
    }
  }
  for (let place = 0; place < count; place++) {
    for (const [x, anchor] of [[left - 6, "end"], [right + 6, "start"]]) {
      const text = name("text");
      text.textContent = shown(place).trim() || "␣";
      text.setAttribute("x", x);
      text.setAttribute("y", place * step + 16);
      text.setAttribute("text-anchor", anchor);
      if (place === query && anchor === "end") text.setAttribute("class", "here");
      if (anchor === "end") text.addEventListener("click", () => update({ query: place, kept: true, key: null }));
      svg.append(text);
    }
  }
  box.replaceChildren(svg);
}

function list(id, title, entries, none) {
  byId(`${id}-title`).textContent = title;
  const items = (entries ?? []).filter(([, weight]) => weight >= LEAST).slice(0, SHOWN).map(([label, weight, go]) => {
    const item = make("li"), word = make("span");
    const button = make("button", "", label);
    button.addEventListener("click", go);
    word.append(button);
    item.append(word, make("b", "", weight.toFixed(2)));
    item.style.setProperty("--part", `${Math.round(weight * 100)}%`);
    return item;
  });
  byId(id).replaceChildren(...(items.length ? items : [make("li", "quiet", none)]));
}

function drawLists() {
  const { layer, head, query, key } = state, keep = "point at a token above";
  const tokenEntry = ([place, weight]) => [shown(place), weight, () => update({ query: place, key: null, kept: true })];
  const rows = query === null ? null : looks(layer, head, query);
  const columns = query === null ? null : seen(layer, head, query);
  const lost = query === null ? keep : `not kept before token ${firstListed + 1}, “${shown(firstListed).trim()}”`;
  const name = query === null ? "a token" : `“${shown(query).trim()}”`;
  const none = rows && (isInvalid(layer, head, query) ? "not a number" : "nowhere");
  list("looks", `Where ${name} looks`, rows?.map(tokenEntry), none ?? lost);
  list("seen", `What looks at ${name}`, columns?.map(tokenEntry), columns ? "nothing" : lost);
  const pairs = query === null || key === null ? null : headsOf(query, key);
  const title = pairs ? `Heads from ${name} to “${shown(key).trim()}”` : "Heads from one token to another";
  const entries = pairs?.map(([at, one, weight]) => [`${layers[at].label}.${one} ${layers[at].words[one]}`, weight,
    () => update({ layer: at, head: one })]);
  list("pair", title, entries, pairs ? "none" : "click a token, then another");
}

function drawHead() {
  const { layer, head } = state;
  byId("head-title").textContent = `${layers[layer].name}, head ${head}: ${layers[layer].words[head]}`;
  paint(byId("large"), layer, head);
}

function drawGrid() {
  document.querySelectorAll(".layer").forEach((row, layer) => {
    row.querySelectorAll(".head").forEach((button, head) => {
      button.classList.toggle("on", layer === state.layer && head === state.head);
      button.setAttribute("aria-pressed", layer === state.layer && head === state.head);
      button.classList.toggle("dim", state.kind !== null && layers[layer].words[head] !== state.kind);
    });
  });
  for (const button of byId("kinds").children) button.setAttribute("aria-pressed", button.dataset.kind === state.kind);
}

function describePooling() {
  if (whole) return;
  byId("pooled").textContent = `The text is long, so these are pooled maps. A cell covers ${data.cell}; its value is the ` +
    "sum of the weights on its keys, averaged over its queries. Lists and lines have the " +
    `${data.top_k} largest weights of each query from token ${firstListed + 1} on, “${shown(firstListed).trim()}”.`;
  byId("pooled").hidden = false;
}

function paintGrid() {
  document.querySelectorAll(".layer").forEach((row, layer) => {
    row.querySelectorAll("canvas").forEach((canvas, head) => paint(canvas, layer, head));
  });
}

function update(change) {
  Object.assign(state, change);
  byId("map").hidden = state.view !== "map";
  byId("lines").hidden = state.view !== "lines";
  if ("layer" in change || change.all) drawHead();
  if ("layer" in change || "kind" in change || change.all) drawGrid();
  if (state.view === "lines") drawLines();
  drawText();
  drawLists();
  for (const name of ["layer", "head", "query", "key", "view", "way"]) page.dataset[name] = state[name] ?? "";
}

function pointAt(event) {
  const box = byId("large").getBoundingClientRect();
  const place = (at, length) => Math.min(side - 1, Math.max(0, Math.floor((at / length) * side)));
  return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
}

function span(place) {
  const first = Math.ceil((place * count) / side), last = Math.ceil(((place + 1) * count) / side) - 1;
  return first === last ? `“${shown(first).trim()}”` : `“${shown(first).trim()}” … “${shown(last).trim()}”`;
}

byId("large").addEventListener("mousemove", (event) => {
  const [row, column] = pointAt(event);
  byId("cell").textContent = `${span(row)} → ${span(column)}: ${figure(cell(state.layer, state.head, row, column))}`;
});
byId("large").addEventListener("click", (event) => {
  const [row, column] = pointAt(event);
  if (whole) update({ query: row, key: column, kept: true });
});
for (const name of ["way", "view"]) {
  document.querySelectorAll(`input[name=${name}]`).forEach((input) => {
    input.addEventListener("change", () => update({ [name]: input.value }));
  });
}
document.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (event.key === "Escape") return update({ query: null, key: null, kept: false });
  if (!(event.key in moves) || event.target.tagName === "INPUT") return;
  const [down, right] = moves[event.key];
  const layer = Math.min(layers.length - 1, Math.max(0, state.layer + down));
  const head = Math.min(layers[layer].heads - 1, Math.max(0, state.head + right));
  event.preventDefault();
  update({ layer, head });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  paintGrid();
  update({ all: true });
});

byId("title").textContent = data.title;
byId("about").textContent = data.about;
readColours();
buildGrid();
buildKinds();
buildText();
describePooling();
paintGrid();
update({ layer: data.first[0], head: data.first[1], all: true });
