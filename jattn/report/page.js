// The page: its state, its controls, and what is drawn again when the state changes.

const LEAST_LINE = 0.02;
const VIEWS = ["one", "two", "layer"];
const byId = (id) => document.getElementById(id);
const last = run.steps.length - 1;
const hasFilters = run.layers.length > 0;
const views = {};
let colours = levelColours();
let timer = null;

const state = {
  snapshot: last, example: 0, ...bestFilter(), view: "one", otherLayer: 0, otherHead: 0, oracle: true, playing: false,
  threshold: LEAST_LINE, zoom: null, query: null, key: null, pinned: false, row: 0,
};
Object.assign(state, nextHead(1, "otherLayer", "otherHead"), stateOf(location.hash));
if (hasFilters) state.row = firstRow(state.example, state.layer);

/** Returns the filter to begin with: the one with the most mass on the oracle at the end of the run, if there is any. */
function bestFilter() {
  if (!hasFilters) return { layer: 0, head: 0 };
  const mass = ({ layer, head }) => measuresAt(last, 0, layer, head).mass ?? -1;
  return allHeads().reduce((best, next) => (mass(next) > mass(best) ? next : best));
}

function allHeads() {
  return run.layers.flatMap(({ heads }, layer) => Array.from({ length: heads }, (_, head) => ({ layer, head })));
}

/** Returns the head so many places on from the one shown, under the given names; the last is followed by the first. */
function nextHead(move, layerName = "layer", headName = "head") {
  const heads = allHeads();
  if (!heads.length) return {};
  const at = heads.findIndex(({ layer, head }) => layer === state.layer && head === state.head);
  const next = heads[(at + move + heads.length) % heads.length];
  return { [layerName]: next.layer, [headName]: next.head };
}

const NO_PICTURE = ["query", "key", "pinned", "row", "playing"];

/** Changes the state and draws what depends on it; a change of focus alone draws no picture again. */
function update(changes) {
  const changed = Object.keys(changes).filter((name) => state[name] !== changes[name]);
  if (!changed.length) return;
  const before = hasFilters && currentFilter();
  Object.assign(state, changes);
  if (hasFilters && (changed.includes("example") || changed.includes("layer"))) startAnew(before, changes);
  if (changed.some((name) => !NO_PICTURE.includes(name))) drawFilter();
  if (changed.includes("layer") || changed.includes("head")) drawRunCurves();
  showState();
}

/** Forgets of the state what another example or layer may not have; a pin stays where sizes are the same. */
function startAnew(before, changes) {
  const now = currentFilter();
  const alike = before.queries.length === now.queries.length && before.keys.length === now.keys.length;
  const forgotten = alike ? {} : { query: null, key: null, pinned: false, zoom: null };
  Object.assign(state, forgotten, { row: firstRow(state.example, state.layer) }, changes);
}

function currentFilter() {
  return filterAt(state.snapshot, state.example, state.layer, state.head);
}

function otherFilter() {
  return filterAt(state.snapshot, state.example, state.otherLayer, state.otherHead);
}

function drawFilter() {
  if (!hasFilters) return;
  const shown = currentFilter();
  const options = { ...state, colours };
  byId("views").classList.toggle("maps", shown.pooled);
  byId("views").classList.toggle("pictured", pictureOf(shown) !== null);
  byId("views").dataset.view = state.view;
  byId("scale-note").textContent = shown.pooled ? "(half the ink is 0.25)" : "";
  byId("pooling").textContent = shown.pooled ? `; ${run.pooling[state.layer][state.example]}` : "";
  byId("masked-key").hidden = !maskOf(state.layer, state.example, shown.queries.length, shown.keys.length);
  byId("zoom-out").hidden = !state.zoom;
  views.matrix = drawMatrix(byId("matrix"), shown, options);
  views.other = { showFocus() {} };
  views.lines = { showFocus() {} };
  if (state.view === "two") drawOther(options);
  else if (!shown.pooled) drawAllLines(shown, options);
  drawHeads();
}

function drawOther(options) {
  const other = otherFilter();
  const { queries, keys } = currentFilter();
  const alike = other.queries.length === queries.length && other.keys.length === keys.length;
  views.other = drawMatrix(byId("other"), other, { ...options, zoom: alike ? state.zoom : null });
  byId("other-name").textContent = `${other.name}: ${plainMeasures(state.otherLayer, state.otherHead)}`;
}

function drawAllLines(shown, options) {
  const heads = state.view === "layer" ? run.layers[state.layer].heads : 0;
  const all = Array.from({ length: heads }, (_, head) => (
    { filter: filterAt(state.snapshot, state.example, state.layer, head), colour: headColour(head) }
  ));
  views.lines = drawLines(byId("lines"), heads ? all : [{ filter: shown }], options);
  byId("line-heads").replaceChildren(...all.map(({ colour }, head) => {
    const entry = element("span", {}, `head ${head}`);
    entry.prepend(element("i"));
    entry.firstChild.style.background = colour;
    return entry;
  }));
}

function drawHeads() {
  for (const button of byId("heads").querySelectorAll("button")) {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    const filter = filterAt(state.snapshot, state.example, layer, head);
    const canvas = button.querySelector("canvas");
    canvas.classList.toggle("map", filter.pooled);
    paint(canvas, filter.queries.length, filter.keys.length, filter.level, colours);
    const { mass } = measuresAt(state.snapshot, state.example, layer, head);
    button.querySelector("span").textContent = run.layers[layer].oracle ? `mass ${measureText(mass, 2)}` : "";
    button.setAttribute("aria-pressed", layer === state.layer && head === state.head);
    const second = state.view === "two" && layer === state.otherLayer && head === state.otherHead;
    button.classList.toggle("second", second);
  }
}

function drawRunCurves() {
  const chosen = { layer: run.layers[state.layer]?.name, head: state.head };
  views.curves = drawCurves(byId("curves"), chosen, (step) => update({ snapshot: nearestSnapshot(step) }));
}

function drawEverything() {
  colours = levelColours();
  paint(byId("scale"), 1, TOP_LEVEL + 1, (_, level) => level, colours);
  drawFilter();
  drawRunCurves();
  showState();
}

/** Writes the state into controls, words, data attributes and the address. */
function showState() {
  const step = run.steps[state.snapshot];
  Object.assign(byId("report").dataset, { ...state, step, query: state.query ?? "", key: state.key ?? "" });
  byId("report").dataset.zoom = state.zoom ? [...state.zoom.rows, ...state.zoom.columns].join("-") : "";
  byId("step").value = state.snapshot;
  byId("step").setAttribute("aria-valuetext", `step ${step}`);
  byId("step-shown").textContent = `step ${step.toLocaleString("en")} of ${run.steps[last].toLocaleString("en")}`;
  byId("play").textContent = state.playing ? "Stop" : "Play";
  byId("play").setAttribute("aria-pressed", state.playing);
  byId("oracle").checked = state.oracle;
  views.curves.markStep(step);
  showTables(step);
  markExample(byId("example-table"), state);
  for (const button of byId("examples").children) {
    button.setAttribute("aria-pressed", Number(button.dataset.example) === state.example);
  }
  if (hasFilters) showFilterState();
  showAddress(state);
}

/** Writes the tables of a step and an example; the focus, which changes with the pointer, leaves them as they are. */
function showTables(step) {
  const { dataset } = byId("example-table");
  const shown = `${state.snapshot} ${state.example}`;
  if (dataset.shown === shown) return;
  dataset.shown = shown;
  showPredictions(byId("predictions"), step);
  showExample(byId("example-table"), state);
  showAnswers(byId("example-table"));
  byId("example-words").textContent = exampleWords(state);
  byId("oracle-words").textContent = oracleWords(state);
}

/** Writes what is known of the filter shown. */
function showFilterState() {
  const shown = currentFilter();
  byId("filter-name").textContent = shown.name;
  byId("filter-measures").replaceChildren(...explained(measureWords(shown)));
  byId("focus").textContent = focusWords(shown, state) + (state.pinned ? " Pinned: Escape lets go." : "");
  byId("threshold").value = state.threshold;
  byId("threshold-shown").textContent = state.threshold.toFixed(2);
  for (const button of byId("view").children) {
    button.setAttribute("aria-pressed", button.dataset.view === state.view);
  }
  if (shown.pooled) showRow(shown, state);
  for (const view of [views.matrix, views.lines, views.other]) view.showFocus(state);
  const picture = pictureOf(shown);
  byId("pictured").hidden = !picture;
  if (picture) showPicture(byId("picture"), shown, picture, state, (query) => pin({ query, key: null }, shown));
}

/** Returns the picture whose patches are the keys of a filter; null where they are none. */
function pictureOf(filter) {
  const { picture } = run.examples[state.example];
  return picture && run.layers[state.layer].keys === picture.sequence && !filter.pooled ? picture : null;
}

function measureWords(filter) {
  const { mass, hitRate, entropy } = measuresAt(state.snapshot, state.example, state.layer, state.head);
  const chance = chanceOf(filter);
  const known = [`mass on the oracle ${measureText(mass, 3)}`, `hit rate ${measureText(hitRate, 2)}`];
  if (chance && mass !== null) known.push(`lift ${(mass / chance).toFixed(1)}`, `chance ${chance.toFixed(2)}`);
  return [...(filter.hasOracle ? known : []), `entropy ${measureText(entropy, 2)} nats`].join(" · ");
}

function plainMeasures(layer, head) {
  const { mass, entropy } = measuresAt(state.snapshot, state.example, layer, head);
  return run.layers[layer].oracle ? `mass ${measureText(mass, 3)}` : `entropy ${measureText(entropy, 2)}`;
}

/** Plays from the step shown to the last, from the first if the last is shown; stops if it plays. */
function togglePlay() {
  clearInterval(timer);
  const playing = !state.playing && last > 0;
  update({ playing, ...(playing && state.snapshot === last ? { snapshot: 0 } : {}) });
  if (!playing) return;
  timer = setInterval(() => {
    update({ snapshot: Math.min(state.snapshot + 1, last) });
    if (state.snapshot === last) togglePlay();
  }, Math.max(80, Math.min(400, 8000 / run.steps.length)));
}

function goTo(snapshot) {
  update({ snapshot: Math.max(0, Math.min(last, snapshot)) });
}

/** Chooses a query whose largest weights are listed. */
function goToRow(row) {
  update({ row: Math.max(0, Math.min(currentFilter().tokens.queries.length - 1, row)) });
}

/** Pins the query before or after; of a map, steps through exact queries. */
function walk(move) {
  if (!hasFilters) return;
  const { pooled, queries } = currentFilter();
  if (pooled) return goToRow(state.row + move);
  const from = state.query ?? (move > 0 ? -1 : queries.length);
  update({ query: Math.max(0, Math.min(queries.length - 1, from + move)), key: null, pinned: true });
}

function walkHeads(move) {
  if (hasFilters) update(nextHead(move));
}
