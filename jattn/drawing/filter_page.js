const page = byId("see");
const state = {
  layer: 0, head: 0, text: 0, query: picture ? 0 : null, key: null, kept: false,
  way: "looks", view: picture ? "picture" : "map", kind: null, shows: texts.length < 2 ? "first" : "change",
};

// The text whose filters the map and the lines show; of a difference, that of the chosen token.
const inView = () => texts[state.shows === "change" ? state.text : Number(state.shows === "second")];

function paint(canvas, layer, head) {
  if (state.shows === "change") return paintChange(canvas, layer, head);
  const text = inView();
  paintCells(canvas, text.side, text.side, (row, column) => pixels[text.level(layer, head, row, column)]);
}

// The grid of heads, and the kinds of heads

function buildGrid() {
  layers.forEach((layer, index) => {
    const row = make("div", "layer");
    row.append(make("span", "name", layer.label));
    for (let head = 0; head < layer.heads; head++) {
      const button = make("button", "head");
      button.append(make("canvas", picture ? "patches" : ""), make("span", "word", layer.words[head]));
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

// The texts

const buttons = texts.map(() => []);

function buildText(text, which) {
  const box = byId(which ? "other" : "text");
  box.classList.toggle("spaced", !text.joined);
  const last = picture ? picture.lead : text.count;
  text.tokens.slice(0, last).forEach((token, place) => {
    const button = make("button", place >= text.written ? "token written" : "token", text.shown(place));
    const same = partner(which, place);
    const differs = texts.length === 2 && (same === null || texts[1 - which].tokens[same] !== token);
    button.classList.toggle("differs", differs);
    button.addEventListener("mouseenter", () => state.kept || update({ text: which, query: place }));
    button.addEventListener("click", () => {
      const again = state.query === place && state.text === which;
      if (state.kept && state.query !== null && state.text === which && !again && !picture) return update({ key: place });
      update({ text: which, query: place, key: null, kept: !(again && state.kept) });
    });
    box.append(button, ...(token.includes("\n") ? [make("br")] : []));
    buttons[which].push(button);
  });
}

function drawText(text, which) {
  const { layer, head, way } = state, query = which === state.text ? state.query : partner(state.text, state.query);
  const found = query === null ? null : way === "looks" ? text.looks(layer, head, query) : text.seen(layer, head, query);
  const ink = new Map(found ?? []);
  buttons[which].forEach((button, place) => {
    const level = Math.round(Math.sqrt(ink.get(place) ?? 0) * TOP);
    button.style.backgroundColor = level > 8 ? `rgb(${ramp[level].join(" ")})` : "";
    button.style.color = level > 8 ? textOn(ramp[level]) : "";
    button.classList.toggle("inked", level > 8);
    button.classList.toggle("here", place === query);
  });
}

// The chosen head

function drawLines() {
  const box = byId("lines"), name = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const { layer, head } = state, step = 17, wide = 500, left = 170, right = 330, text = inView();
  const which = texts.indexOf(text), query = which === state.text ? state.query : partner(state.text, state.query);
  const svg = name("svg");
  svg.setAttribute("viewBox", `0 0 ${wide} ${text.count * step + 8}`);
  for (let place = text.firstListed; place < text.count; place++) {
    if (query !== null && state.kept && place !== query) continue;
    for (const [key, weight] of (text.looks(layer, head, place) ?? []).filter(([, one]) => one >= FAINTEST)) {
      const line = name("line");
      const ends = { x1: left, y1: place * step + 12, x2: right, y2: key * step + 12 };
      for (const [end, at] of Object.entries(ends)) line.setAttribute(end, at);
      line.setAttribute("stroke-opacity", query === null || place === query ? weight.toFixed(2) : (weight / 4).toFixed(2));
      line.setAttribute("stroke-width", place === query ? 2.5 : 1.2);
      svg.append(line);
    }
  }
  for (let place = 0; place < text.count; place++) {
    for (const [x, anchor] of [[left - 6, "end"], [right + 6, "start"]]) {
      const word = name("text");
      word.textContent = text.shown(place).trim() || "␣";
      word.setAttribute("x", x);
      word.setAttribute("y", place * step + 16);
      word.setAttribute("text-anchor", anchor);
      if (place === query && anchor === "end") word.setAttribute("class", "here");
      if (anchor === "end") {
        word.addEventListener("click", () => update({ text: which, query: place, kept: true, key: null }));
      }
      svg.append(word);
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
  byId(id).parentElement.classList.toggle("empty", !items.length);
  byId(id).replaceChildren(...(items.length ? items : [make("li", "quiet", none)]));
}

function headEntry([layer, head, number]) {
  return [`${layers[layer].label}.${head} ${layers[layer].words[head]}`, number, () => update({ layer, head })];
}

function drawLists() {
  const { layer, head, query, key } = state, keep = "point at a token above", text = texts[state.text];
  const said = (place) => `“${text.shown(place).trim()}”`;
  const tokenEntry = ([place, weight]) => [text.shown(place), weight, () => update({ query: place, key: null, kept: true })];
  const rows = query === null ? null : text.looks(layer, head, query);
  const columns = query === null ? null : text.seen(layer, head, query);
  const lost = query === null ? keep : `not kept before token ${text.firstListed + 1}, ${said(text.firstListed)}`;
  const name = query === null ? "a token" : said(query);
  const where = query === null || texts.length < 2 ? "" : ` in the ${state.text ? "second" : "first"} text`;
  const none = rows && (text.isInvalid(layer, head, query) ? "not a number" : "nowhere");
  list("looks", `Where ${name} looks${where}`, rows?.map(tokenEntry), none ?? lost);
  list("seen", `What looks at ${name}${where}`, columns?.map(tokenEntry), columns ? "nothing" : lost);
  const pairs = query === null || key === null ? null : text.headsOf(query, key);
  const title = pairs ? `Heads from ${name} to ${said(key)}, as layer.head` : "Heads from one token to another";
  list("pair", title, pairs?.map(headEntry), pairs ? "none" : "click a token, then another");
  if (texts.length === 2) list("changed", "Heads that change most: layer.head, and how much of a query’s weight moves", mostChanged().map(headEntry), "none");
}

function drawHead() {
  const { layer, head } = state, { changes } = layers[layer];
  const moved = changes && state.shows === "change" ? `, ${figure(changes[head] ?? NaN)} of its weight moves` : "";
  byId("head-title").textContent = `${layers[layer].name}, head ${head}: ${layers[layer].words[head]}${moved}`;
  paint(byId("large"), layer, head);
  drawScale();
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
  const text = texts.find((one) => !one.whole);
  if (!text) return;
  byId("pooled").textContent = `The text is long, so these are pooled maps. A cell covers ${text.cell}; its value is the ` +
    "sum of the weights on its keys, averaged over its queries. Lists and lines have the " +
    `${text.top_k} largest weights of each query from token ${text.firstListed + 1} on, ` +
    `“${text.shown(text.firstListed).trim()}”.`;
  byId("pooled").hidden = false;
}

function paintGrid() {
  document.querySelectorAll(".layer").forEach((row, layer) => {
    row.querySelectorAll("canvas").forEach((canvas, head) => (picture ? paintPatches : paint)(canvas, layer, head));
  });
}

function update(change) {
  const before = { ...state };
  Object.assign(state, change);
  byId("map").hidden = state.view !== "map";
  byId("lines").hidden = state.view !== "lines";
  byId("picture").hidden = state.view !== "picture";
  const isOther = (...names) => change.all || names.some((name) => state[name] !== before[name]);
  if (isOther("layer", "head", "shows")) drawHead();
  if (isOther("layer", "head", "kind")) drawGrid();
  if (isOther("shows") || (picture && isOther("query", "way"))) paintGrid();
  if (state.view === "lines") drawLines();
  texts.forEach(drawText);
  drawPicture();
  drawMapWords();
  drawLists();
  for (const name of ["layer", "head", "text", "query", "key", "view", "way", "shows"]) {
    page.dataset[name] = state[name] ?? "";
  }
}

function pointAt(event) {
  const box = byId("large").getBoundingClientRect(), most = byId("large").width;
  const place = (at, length) => Math.min(most - 1, Math.max(0, Math.floor((at / length) * most)));
  return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
}

byId("large").addEventListener("mousemove", (event) => {
  const [row, column] = pointAt(event), { layer, head } = state, text = inView();
  byId("cell").textContent = state.shows === "change" ? describeChange(layer, head, row, column)
    : `${text.span(row)} → ${text.span(column)}: ${figure(text.weight(layer, head, row, column))}`;
});
byId("large").addEventListener("click", (event) => {
  const [row, column] = pointAt(event), text = inView(), which = texts.indexOf(text);
  if (!text.whole) return;
  const [query, key] = [row, column].map((at) => (state.shows === "change" ? places[at][which] : at));
  update({ text: which, query, key, kept: true });
});
for (const name of ["way", "view", "shows"]) {
  document.querySelectorAll(`input[name=${name}]`).forEach((input) => {
    input.addEventListener("change", () => update({ [name]: input.value }));
  });
}
document.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (event.key === "Escape") return update({ query: picture ? 0 : null, key: null, kept: false });
  if (!(event.key in moves) || event.target.tagName === "INPUT") return;
  const [down, right] = moves[event.key];
  const layer = Math.min(layers.length - 1, Math.max(0, state.layer + down));
  const head = Math.min(layers[layer].heads - 1, Math.max(0, state.head + right));
  event.preventDefault();
  update({ layer, head });
});
function drawEverything() {
  readColours();
  paintGrid();
  update({ all: true });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawEverything);
drawForPaper(drawEverything);

byId("title").textContent = data.title;
byId("about").textContent = data.about;
if (state.shows === "change" && !comparable) state.shows = "first";
readColours();
buildGrid();
buildKinds();
texts.forEach(buildText);
buildPicture();
describePooling();
describePair();
paintGrid();
update({ layer: data.first[0], head: data.first[1], all: true });
