// What is read rather than looked at: predictions, and accuracy by length.

/** Shows the predictions of the last evaluation at or before a step; wrong tokens are marked. */
function showPredictions(section, step) {
  const { predictions } = run;
  section.hidden = !predictions.some(({ examples }) => examples.length);
  if (section.hidden) return;
  const past = predictions.filter((row) => row.step <= step && row.examples.length).at(-1);
  section.dataset.step = past ? past.step : "";
  section.querySelector(".note").textContent = past
    ? `At step ${past.step.toLocaleString("en")}, on sequences of the evaluation. Wrong tokens are underlined.`
    : "There was no evaluation by this step.";
  const rows = (past?.examples ?? []).map(({ source, target, prediction }) => {
    const row = element("tr");
    row.append(element("td", {}, source), element("td", {}, target), markedPrediction(target, prediction));
    return row;
  });
  fillTable(section.querySelector("table"), ["source", "target", "prediction"], past ? rows : []);
}

function markedPrediction(target, prediction) {
  const cell = element("td");
  const expected = target.split(" ");
  prediction.split(" ").forEach((token, index) => {
    if (index) cell.append(" ");
    cell.append(token === expected[index] ? token : element("mark", {}, token));
  });
  return cell;
}

const MEASURES = {
  exact_accuracy: "exactly right", token_accuracy: "tokens right", filter_score: "filter score",
  perplexity: "perplexity", bits_per_byte: "bits per byte",
};

/** Returns the measures that some rows have, and their titles; whole sequences of a text say nothing. */
function measuresOf(rows) {
  const known = Object.entries(MEASURES).filter(([name]) => rows.some((row) => typeof row[name] === "number"));
  return known.filter(([name]) => name !== "exact_accuracy" || !known.some(([other]) => other === "perplexity"));
}

/** Shows what the test found at each length. */
function showByLength(section) {
  const lengths = Object.entries(run.by_length).sort(([a], [b]) => Number(a) - Number(b));
  section.hidden = !lengths.length;
  const columns = measuresOf(lengths.map(([, found]) => found));
  const rows = lengths.map(([length, found]) => {
    const row = element("tr");
    const numbers = columns.map(([name]) => element("td", {}, found[name]?.toFixed(4) ?? "–"));
    row.append(element("td", {}, length), ...numbers);
    return row;
  });
  fillTable(section.querySelector("table"), ["length", ...columns.map(([, title]) => title)], rows);
}

/** Shows what made the run: what was asked for, with what, where, when and how fast. */
function showRecord(table) {
  const { record } = run;
  table.replaceChildren(...record.map(([title, words]) => {
    const row = element("tr");
    row.append(element("th", { scope: "row" }, title), element("td", {}, words));
    return row;
  }));
}

/** Shows what the test says of each seed that was trained at once. */
function showSeeds(section) {
  section.hidden = run.seeds.length < 2;
  const columns = measuresOf(run.seeds);
  const rows = run.seeds.map((seed) => {
    const row = element("tr");
    row.append(element("td", {}, String(seed.seed)));
    row.append(...columns.map(([name]) => element("td", {}, seed[name]?.toFixed(4) ?? "–")));
    return row;
  });
  fillTable(section.querySelector("table"), ["seed", ...columns.map(([, title]) => title)], rows);
}
