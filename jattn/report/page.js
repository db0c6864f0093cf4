// The page: its state, its controls, and what is drawn again when the state changes.

const byId = (id) => document.getElementById(id);
const last = run.steps.length - 1;
const hasFilters = run.layers.length > 0;
const state = { snapshot: last, example: 0, ...bestFilter(), oracle: true, playing: false, query: null, key: null };
state.row = hasFilters ? firstRow(state.example, state.layer) : 0;
const views = {};
let colours = levelColours();
let timer = null;

/** Returns the filter to begin with: the one with the most mass on the oracle at the end of the run, if there is any. */
function bestFilter() {
  if (!hasFilters) return { layer: 0, head: 0 };
  const all = run.layers.flatMap(({ heads }, layer) => Array.from({ length: heads }, (_, head) => ({ layer, head })));
  const mass = ({ layer, head }) => measuresAt(last, 0, layer, head).mass ?? -1;
  return all.reduce((best, next) => (mass(next) > mass(best) ? next : best));
}

/** Changes the state and draws what depends on it; a change of focus alone draws no picture again. */
function update(changes) {
  const changed = Object.keys(changes).filter((name) => state[name] !== changes[name]);
  if (!changed.length) return;
  Object.assign(state, changes);
  if (changed.includes("example") || changed.includes("layer")) {
    Object.assign(state, { query: null, key: null, row: firstRow(state.example, state.layer) });
  }
  if (changed.some((name) => !["query", "key", "row", "playing"].includes(name))) drawFilter();
  if (changed.includes("layer") || changed.includes("head")) drawRunCurves();
  showState();
}

function currentFilter() {
  return filterAt(state.snapshot, state.example, state.layer, state.head);
}

function drawFilter() {
  if (!hasFilters) return;
  const shown = currentFilter();
  byId("views").classList.toggle("maps", shown.pooled);
  byId("scale-note").textContent = shown.pooled ? "(half the ink is 0.25)" : "";
  byId("pooling").textContent = shown.pooled ? `; ${run.pooling[state.layer][state.example]}` : "";
  views.matrix = (shown.pooled ? drawMap : drawMatrix)(byId("matrix"), shown, state, colours);
  views.lines = shown.pooled ? { showFocus() {} } : drawLines(byId("lines"), shown, state);
  for (const button of byId("heads").querySelectorAll("button")) {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    const filter = filterAt(state.snapshot, state.example, layer, head);
    const canvas = button.querySelector("canvas");
    canvas.classList.toggle("map", filter.pooled);
    paint(canvas, filter.queries.length, filter.keys.length, filter.level, colours);
    const { mass } = measuresAt(state.snapshot, state.example, layer, head);
    button.querySelector("span").textContent = run.layers[layer].oracle ? `mass ${measureText(mass, 2)}` : "";
    button.setAttribute("aria-pressed", layer === state.layer && head === state.head);
  }
}

function drawRunCurves() {
  const chosen = { layer: run.layers[state.layer]?.name, head: state.head };
  views.curves = drawCurves(byId("curves"), chosen, (step) => {
    const distances = run.steps.map((at) => Math.abs(at - step));
    update({ snapshot: distances.indexOf(Math.min(...distances)) });
  });
}

function drawEverything() {
  colours = levelColours();
  paint(byId("scale"), 1, TOP_LEVEL + 1, (_, level) => level, colours);
  drawFilter();
  drawRunCurves();
  showState();
}

/** Writes the state into controls, words and data attributes. */
function showState() {
  const step = run.steps[state.snapshot];
  Object.assign(byId("report").dataset, { ...state, step, query: state.query ?? "", key: state.key ?? "" });
  byId("step").value = state.snapshot;
  byId("step").setAttribute("aria-valuetext", `step ${step}`);
  byId("step-shown").textContent = `step ${step.toLocaleString("en")} of ${run.steps[last].toLocaleString("en")}`;
  byId("play").textContent = state.playing ? "Stop" : "Play";
  byId("play").setAttribute("aria-pressed", state.playing);
  views.curves.markStep(step);
  showPredictions(byId("predictions"), step);
  if (hasFilters) showFilterState();
}

/** Writes what is known of the filter shown. */
function showFilterState() {
  byId("filter-name").textContent = `${run.layers[state.layer].name}, head ${state.head}`;
  byId("filter-measures").textContent = measureWords();
  const shown = currentFilter();
  byId("focus").textContent = (shown.pooled ? mapWords : focusWords)(shown, state);
  if (shown.pooled) showRow(shown, state);
  views.matrix.showFocus(state);
  views.lines.showFocus(state);
}

function measureWords() {
  const { mass, hitRate, entropy } = measuresAt(state.snapshot, state.example, state.layer, state.head);
  const known = [`mass on the oracle ${measureText(mass, 3)}`, `hit rate ${measureText(hitRate, 2)}`];
  return [...(run.layers[state.layer].oracle ? known : []), `entropy ${measureText(entropy, 2)} nats`].join(" · ");
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

/** Makes a button with a small picture for each head, one row per layer; a single head needs none. */
function addHeads() {
  const holder = byId("heads");
  holder.hidden = run.layers.length <= 1 && (run.layers[0]?.heads ?? 1) === 1;
  if (holder.hidden) return;
  run.layers.forEach(({ name, heads }, layer) => {
    const row = element("div", { class: "row" });
    for (let head = 0; head < heads; head++) {
      const identity = { "data-layer": layer, "data-head": head, "aria-label": `${name}, head ${head}` };
      const button = row.appendChild(element("button", { type: "button", ...identity }));
      button.append(element("canvas"), `head ${head}`, element("span"));
      button.addEventListener("click", () => update({ layer, head }));
    }
    holder.append(element("div", { class: "layer" }, name), row);
  });
}

/** Lets a picture of the filter follow the pointer and the keys up, down and Escape. */
function followFocus(holder, view, tooltip) {
  const leave = () => {
    byId("tooltip").hidden = true;
    update({ query: null, key: null });
  };
  const point = (event) => {
    const { left, top } = holder.getBoundingClientRect();
    update(views[view].placeOf(event.clientX - left, event.clientY - top));
    showTooltip(tooltip && state.query !== null && state.key !== null, event);
  };
  holder.addEventListener("pointermove", point);
  holder.addEventListener("pointerdown", (event) => {
    point(event);
    const { pooled, queries } = currentFilter();
    if (pooled && state.query !== null) goToRow(queries[state.query].first);
  });
  holder.addEventListener("pointerleave", leave);
  holder.addEventListener("focusout", leave);
  holder.addEventListener("keydown", (event) => {
    const move = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") leave();
    if (!move) return;
    event.preventDefault();
    if (currentFilter().pooled) return goToRow(state.row + move);
    const count = currentFilter().queries.length;
    update({ query: Math.max(0, Math.min(count - 1, (state.query ?? (move > 0 ? -1 : count)) + move)), key: null });
  });
}

/** Shows beside the pointer what the cell under it is. */
function showTooltip(shown, { clientX, clientY }) {
  const tooltip = byId("tooltip");
  tooltip.hidden = !shown;
  if (!shown) return;
  const filter = currentFilter();
  const lines = filter.pooled ? cellLines(filter, state) : weightLines(filter, state);
  tooltip.replaceChildren(...lines.filter(Boolean).map((line) => element("div", {}, line)));
  const { width, height } = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(4, Math.min(clientX + 14, innerWidth - width - 4))}px`;
  const fitsBelow = clientY + 18 + height <= innerHeight;
  tooltip.style.top = `${fitsBelow ? clientY + 18 : clientY - height - 12}px`;
}

function weightLines(filter, { query, key, example, layer }) {
  const answer = answerAt(example, layer, query);
  const onOracle = oracleKeys(example, layer, query).includes(key) ? "oracle: yes" : "oracle: no";
  return [
    `query ${query} ${quoted(filter.queries[query])}`,
    answer && `its answer ${quoted(answer)}`,
    `key ${key} ${quoted(filter.keys[key])}`,
    `weight ${weightText(filter.level(query, key))}`,
    run.layers[layer].oracle && (isScored(example, layer, query) ? onOracle : "this query is not scored"),
  ];
}

function addControls() {
  byId("step").max = last;
  byId("step").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("play").addEventListener("click", togglePlay);
  byId("example").append(...run.examples.map((_, i) => element("option", { value: i }, String(i + 1))));
  byId("example").addEventListener("change", (event) => update({ example: Number(event.target.value) }));
  byId("oracle").addEventListener("change", (event) => update({ oracle: event.target.checked }));
  byId("row-before").addEventListener("click", () => goToRow(state.row - 1));
  byId("row-after").addEventListener("click", () => goToRow(state.row + 1));
  byId("row").addEventListener("input", ({ target }) => {
    if (Number.isInteger(target.valueAsNumber)) goToRow(target.valueAsNumber);
  });
  byId("row-step").addEventListener("click", ({ target }) => goTo(Number(target.dataset.snapshot)));
  addHeads();
  if (hasFilters) {
    followFocus(byId("matrix"), "matrix", true);
    followFocus(byId("lines"), "lines", false);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, button, summary")) return;
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (move) goTo(state.snapshot + move);
    else togglePlay();
  });
}

/** Writes what does not change. */
function addWords() {
  document.body.classList.toggle("without-oracle", !run.layers.some((layer) => layer.oracle));
  for (const name of ["folder", "title", "result", "config"]) byId(name).textContent = run[name];
  byId("lines-note").textContent = `Lines below weight ${LEAST_LINE} are left out.`;
  const fewer = run.snapshots_taken > run.steps.length;
  const thinned = fewer ? `Of ${run.snapshots_taken} snapshots the page holds ${run.steps.length}. ` : "";
  byId("thinned").textContent = thinned + leftOutWords();
  showByLength(byId("by-length"));
}

addWords();
addControls();
drawEverything();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawEverything);
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  drawEverything();
});
