// The controls of the page, and its start.

/** Makes a button with a small picture for each head, grouped by layer; a single head needs none. */
function addHeads() {
  const holder = byId("heads");
  const alone = run.layers.length <= 1 && (run.layers[0]?.heads ?? 1) === 1;
  byId("stage").classList.toggle("alone", alone);
  byId("view").hidden = alone;
  if (alone) return;
  run.layers.forEach(({ name, heads }, layer) => {
    const row = element("div", { class: "row", role: "group", "aria-label": name });
    for (let head = 0; head < heads; head++) {
      const identity = { "data-layer": layer, "data-head": head, "aria-label": `${name}, head ${head}` };
      const button = row.appendChild(element("button", { type: "button", ...identity }));
      button.append(element("canvas"), `head ${head}`, element("span"));
      button.addEventListener("click", (event) => {
        const other = event.shiftKey || event.ctrlKey || event.metaKey;
        update(other ? { view: "two", otherLayer: layer, otherHead: head } : { layer, head });
      });
    }
    const group = holder.appendChild(element("div"));
    group.append(element("div", { class: "layer" }, name), row);
  });
}

function addExamples() {
  byId("examples").append(...run.examples.map((_, example) => {
    const named = { type: "button", "data-example": example, "aria-label": `Example ${example + 1}: ${exampleName(example)}` };
    const button = element("button", named, exampleName(example));
    button.addEventListener("click", () => update({ example }));
    return button;
  }));
}

function addCopying() {
  const say = (words) => { byId("copied").textContent = words; };
  const fileName = (end) => {
    const parts = [run.title, run.layers[state.layer].name, `head ${state.head}`, `step ${run.steps[state.snapshot]}`];
    return `${parts.join(" ").replace(/[^\w.-]+/g, "-")}.${end}`;
  };
  const giveAs = (content, end, type) => give(content, fileName(end), type).then((how) => say(`${end.toUpperCase()} ${how}`));
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const { copy, of } = button.dataset;
      if (copy === "csv") return giveAs(asCsv(of === "other" ? otherFilter() : currentFilter(), state.zoom), "csv", "text/csv");
      const picture = standalone(byId(of));
      if (copy === "svg") return giveAs(picture.text, "svg", "image/svg+xml");
      return giveAs(await asPng(picture), "png", "image/png");
    });
  }
}

function addControls() {
  byId("step").max = last;
  byId("step").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("play").addEventListener("click", togglePlay);
  byId("oracle").addEventListener("change", (event) => update({ oracle: event.target.checked }));
  byId("threshold").addEventListener("input", (event) => update({ threshold: Number(event.target.value) }));
  byId("zoom-out").addEventListener("click", () => update({ zoom: null }));
  for (const button of byId("view").children) {
    button.addEventListener("click", () => update({ view: button.dataset.view }));
  }
  byId("row-before").addEventListener("click", () => goToRow(state.row - 1));
  byId("row-after").addEventListener("click", () => goToRow(state.row + 1));
  byId("row").addEventListener("input", ({ target }) => {
    if (Number.isInteger(target.valueAsNumber)) goToRow(target.valueAsNumber);
  });
  byId("row-step").addEventListener("click", ({ target }) => goTo(Number(target.dataset.snapshot)));
  addHeads();
  addExamples();
  if (hasFilters) {
    addCopying();
    followPointer(byId("matrix"), "matrix", { zooms: true, tooltip: true, filterOf: currentFilter });
    followPointer(byId("other"), "other", { zooms: true, tooltip: true, filterOf: otherFilter });
    followPointer(byId("lines"), "lines", { zooms: false, tooltip: false, filterOf: currentFilter });
  }
  listenToKeys();
}

/** Writes what does not change. */
function addWords() {
  document.body.classList.toggle("without-oracle", !run.layers.some((layer) => layer.oracle));
  for (const name of ["folder", "title", "config"]) byId(name).textContent = run[name];
  byId("result").append(...explained(run.result));
  showTask(run.task || "This run did not keep what its task is in words.");
  const fewer = run.snapshots_taken > run.steps.length;
  const thinned = fewer ? `Of ${run.snapshots_taken} snapshots the page holds ${run.steps.length}. ` : "";
  const rounded = run.weights.some(({ coarse }) => coarse.includes(true));
  const coarse = rounded ? "To stay small the page rounds the weights of all steps but the last to 1/32. " : "";
  byId("thinned").textContent = thinned + coarse + leftOutWords();
  showByLength(byId("by-length"));
  showSeeds(byId("seeds"));
  showRecord(byId("record"));
}

addWords();
addControls();
drawEverything();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawEverything);
drawForPaper(drawEverything);
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  drawEverything();
});
addEventListener("hashchange", () => {
  const nothing = { query: null, key: null, pinned: false, zoom: null, oracle: true, threshold: LEAST_LINE, view: "one" };
  update({ ...nothing, ...stateOf(location.hash) });
});
byId("report").dataset.ready = "true";
