// Rows on demand: any query of a pooled filter, with its largest weights as they were before the pooling.

const TOP_ROW_LEVEL = 65534;

for (const rows of run.rows.filter(Boolean)) {
  rows.levels = new Uint16Array((await inflated(rows.levels)).buffer);
  const Keys = rows.key_bytes === 2 ? Uint16Array : Uint32Array;
  rows.keys = new Keys((await inflated(rows.keys)).buffer);
}

/** Returns the largest weights of a query with their keys, descending; null where the page does not hold them. */
function rowAt({ snapshot, example, layer, head, row }) {
  const rows = run.rows[layer];
  const held = rows ? rows.snapshots.indexOf(snapshot) : -1;
  if (held < 0 || example >= rows.shape[1]) return null;
  const [, examples, heads, queries, k] = rows.shape;
  const start = (((held * examples + example) * heads + head) * queries + row) * k;
  return Array.from({ length: k }, (_, i) => {
    const level = rows.levels[start + i];
    return { key: rows.keys[start + i], weight: level > TOP_ROW_LEVEL ? NaN : level / TOP_ROW_LEVEL };
  });
}

/** Returns the query to begin with: the first whose answer is known, else the first. */
function firstRow(example, layer) {
  const tokens = run.examples[example].sequences[run.layers[layer].queries];
  const { oracle, scored } = run.examples[example];
  return Math.max(0, tokens.findIndex((_, query) => run.layers[layer].oracle && scored[query] && oracle[query].length));
}

/** Shows the chosen query: what it is, and its largest weights as bars. */
function showRow(filter, state) {
  const { queries, keys } = filter.tokens;
  const { row } = state;
  const input = document.getElementById("row");
  input.max = queries.length - 1;
  if (document.activeElement !== input || Number(input.value) !== row) input.value = row;
  const { first, last } = filter.queries[binAt(filter.queries, row)];
  const within = first === last ? "alone in its row of the map" : `its row of the map holds ${first} to ${last}`;
  document.getElementById("row-count").textContent = `of 0 to ${queries.length - 1}; ${within}`;
  const unscored = filter.hasOracle && !filter.isScored(row) && "Not scored.";
  const words = [`Token ${quoted(queries[row])}.`, answerWords(filter, row), unscored];
  document.getElementById("row-words").textContent = words.filter(Boolean).join(" ");
  const found = rowAt(state);
  const right = new Set(filter.oracle(row));
  const seen = (found ?? []).filter(({ key, weight }) => weight !== 0 && key < keys.length);
  const rows = seen.map(({ key, weight }) => weightRow(key, keys[key], weight, right.has(key)));
  fillTable(document.getElementById("row-keys"), ["key", "token", "weight", "", ""], rows);
  document.getElementById("row-note").textContent = found ? rowNote(seen, right) : absentNote(state);
  showWay(found, state);
}

function weightRow(key, token, weight, right) {
  const row = element("tr", right ? { class: "right", "data-key": key } : { "data-key": key });
  const bar = element("td", { class: "bar" });
  bar.appendChild(element("i")).style.width = `${100 * (weight || 0)}%`;
  const number = Number.isNaN(weight) ? "not a number" : weight.toFixed(weight < 0.01 ? 5 : 3);
  row.append(element("td", {}, String(key)), element("td", { class: "token" }, tokenLabel(token, 20)));
  row.append(element("td", {}, number), bar, element("td", {}, right ? "oracle" : ""));
  return row;
}

/** Says how much of the row is shown, and where its oracle is if that is not. */
function rowNote(seen, right) {
  if (!seen.length) return "This query attends to nothing.";
  const total = seen.reduce((sum, { weight }) => sum + weight, 0);
  const held = seen.length === 1 ? "This key holds" : `These ${seen.length} keys hold`;
  const missing = [...right].filter((key) => !seen.some((each) => each.key === key));
  const elsewhere = missing.length ? ` Its oracle, key ${missing.slice(0, 5).join(", ")}, is not among them.` : "";
  return `${held} ${Number.isNaN(total) ? "what is not a number" : total.toFixed(3)} of weight 1.${elsewhere}`;
}

function absentNote({ example }) {
  const { examples, steps } = heldRows();
  if (!steps.length) return "This run has kept no rows on demand.";
  if (example >= examples) return `To stay small the page holds the rows of ${examplesHeld(examples)} only.`;
  return "To stay small the page leaves out the rows of this step.";
}

function examplesHeld(count) {
  return count === 1 ? "example 1" : `examples 1 to ${count}`;
}

/** Offers the nearest step whose rows the page holds, where those of this one are left out. */
function showWay(found, { snapshot, example }) {
  const button = document.getElementById("row-step");
  const { examples, snapshots } = heldRows();
  button.hidden = Boolean(found) || example >= examples || !snapshots.length;
  if (button.hidden) return;
  const nearest = snapshots.reduce((a, b) => (Math.abs(b - snapshot) < Math.abs(a - snapshot) ? b : a));
  button.dataset.snapshot = nearest;
  button.textContent = `Go to step ${run.steps[nearest].toLocaleString("en")}`;
}

/** Returns what the page holds of rows on demand: the same for all layers. */
function heldRows() {
  const rows = run.rows.find(Boolean);
  const snapshots = rows?.snapshots ?? [];
  return { snapshots, steps: snapshots.map((at) => run.steps[at]), examples: rows?.shape[1] ?? 0 };
}

/** Says what of the rows on demand the page leaves out; nothing where it holds all. */
function leftOutWords() {
  if (!run.layers.some((layer) => layer.pooled)) return "";
  const { steps, examples } = heldRows();
  const parts = [];
  if (steps.length < run.steps.length) parts.push(`at ${steps.length} of its ${run.steps.length} steps`);
  if (examples < run.examples.length) parts.push(`for ${examplesHeld(examples)} of ${run.examples.length}`);
  return parts.length ? `To stay small the page holds rows on demand ${parts.join(", ")} only.` : "";
}
