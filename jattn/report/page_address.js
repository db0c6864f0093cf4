// The state in the address: what a link leads back to.

/** Writes the state as the fragment of an address. */
function addressOf(state) {
  const parts = { step: run.steps[state.snapshot] };
  if (hasFilters) Object.assign(parts, { example: state.example, head: `${state.layer}.${state.head}`, view: state.view });
  if (state.view === "two") parts.with = `${state.otherLayer}.${state.otherHead}`;
  if (state.pinned && state.query !== null) parts.query = state.query;
  if (state.pinned && state.key !== null) parts.key = state.key;
  if (state.threshold !== LEAST_LINE) parts.threshold = state.threshold;
  if (!state.oracle) parts.oracle = "off";
  if (state.zoom) parts.zoom = [...state.zoom.rows, ...state.zoom.columns].join("-");
  return `#${new URLSearchParams(parts)}`;
}

/** Reads the state that an address asks for; what it does not name, or names wrongly, is not there. */
function stateOf(address) {
  const asked = new URLSearchParams(address.replace(/^#/, ""));
  const whole = (name, count) => {
    const number = Number(asked.get(name));
    return asked.has(name) && Number.isInteger(number) && number >= 0 && number < count ? number : undefined;
  };
  const found = { snapshot: nearestSnapshot(asked.get("step")), example: whole("example", run.examples.length) };
  Object.assign(found, headIn(asked.get("head"), "layer", "head"), headIn(asked.get("with"), "otherLayer", "otherHead"));
  if (VIEWS.includes(asked.get("view"))) found.view = asked.get("view");
  const threshold = Number(asked.get("threshold"));
  if (asked.has("threshold") && threshold >= 0 && threshold <= 1) found.threshold = threshold;
  if (asked.get("oracle") === "off") found.oracle = false;
  const zoom = (asked.get("zoom") ?? "").split("-").map(Number);
  if (zoom.length === 4 && zoom.every((n) => Number.isInteger(n) && n >= 0) && zoom[0] < zoom[1] && zoom[2] < zoom[3]) {
    found.zoom = { rows: zoom.slice(0, 2), columns: zoom.slice(2) };
  }
  if (hasFilters) {
    const filter = filterAt(0, found.example ?? 0, found.layer ?? state.layer, 0);
    found.query = whole("query", filter.queries.length);
    found.key = whole("key", filter.keys.length);
    if (found.query !== undefined || found.key !== undefined) found.pinned = true;
  }
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

function headIn(text, layerName, headName) {
  const [layer, head] = (text ?? "").split(".").map(Number);
  const there = Number.isInteger(layer) && Number.isInteger(head) && head >= 0 && head < (run.layers[layer]?.heads ?? 0);
  return there ? { [layerName]: layer, [headName]: head } : {};
}

/** Returns the snapshot nearest to a step; nothing for what is no number. */
function nearestSnapshot(step) {
  if (step === null || step === "" || !Number.isFinite(Number(step))) return undefined;
  const distances = run.steps.map((at) => Math.abs(at - Number(step)));
  return distances.indexOf(Math.min(...distances));
}

let writing = null;

/** Writes the state into the address, once it rests: browsers refuse addresses that change too often. */
function showAddress(state) {
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", addressOf(state)), 200);
}
