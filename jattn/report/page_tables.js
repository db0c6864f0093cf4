// What is read rather than looked at: predictions, and accuracy by length.

/** Shows the predictions of the last evaluation at or before a step; wrong tokens are marked. */
function showPredictions(section, step) {
  const { predictions } = run;
  section.hidden = !predictions.some(({ examples }) => examples.length);
  if (section.hidden) return;
  const past = predictions.filter((row) => row.step <= step && row.examples.length).at(-1);
  section.dataset.step = past ? past.step : "";
  section.querySelector(".note").textContent = past
    ? `At step ${past.step.toLocaleString("en")}, on fresh sequences. Wrong tokens are underlined.`
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

/** Shows what the test found at each length. */
function showByLength(section) {
  const lengths = Object.entries(run.by_length).sort(([a], [b]) => Number(a) - Number(b));
  section.hidden = !lengths.length;
  const columns = Object.entries(
    { exact_accuracy: "exactly right", token_accuracy: "tokens right", filter_score: "filter score" },
  ).filter(([name]) => lengths.some(([, found]) => typeof found[name] === "number"));
  const rows = lengths.map(([length, found]) => {
    const row = element("tr");
    const numbers = columns.map(([name]) => element("td", {}, found[name]?.toFixed(4) ?? "–"));
    row.append(element("td", {}, length), ...numbers);
    return row;
  });
  fillTable(section.querySelector("table"), ["length", ...columns.map(([, title]) => title)], rows);
}

function fillTable(table, titles, rows) {
  const head = element("tr");
  head.append(...(rows.length ? titles : []).map((title) => element("th", { scope: "col" }, title)));
  table.replaceChildren(head, ...rows);
}
