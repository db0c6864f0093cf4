// The example on the screen: what comes in, what is right, what the model answers at the step shown; a picture, if it is one.

/** Shows the example as a table: a column for each query of the inputs, or only for those that are scored. */
function showExample(table, { snapshot, example }) {
  const { sequences, targets, scored } = run.examples[example];
  const places = sequences.inputs.map((_, place) => place);
  const answers = places.map((place) => (scored[place] ? answerAt(snapshot, example, place) : ""));
  const row = (title, words, kind) => {
    const line = element("tr", { class: kind });
    line.append(element("th", { scope: "row" }, title));
    places.forEach((place) => {
      const wrong = kind === "said" && answers[place] !== targets[place];
      const cell = line.appendChild(element("td", { "data-place": place }));
      const token = words[place] ?? "";
      if (token) cell.append(wrong ? element("mark", {}, tokenLabel(token, 12)) : tokenLabel(token, 12));
    });
    return line;
  };
  const lines = [row(sequences.source ? "the decoder reads" : "comes in", sequences.inputs, "read")];
  lines.push(row("right answer", targets.map((token, place) => (scored[place] ? token : "")), "right"));
  if (run.answers) lines.push(row("the model says", answers, "said"));
  table.replaceChildren(...lines);
}

/** Scrolls to the answers, where the table is wider than its place and none of them can be seen. */
function showAnswers(table) {
  const holder = table.parentElement;
  const answered = [...table.querySelectorAll(".right td")].filter((cell) => cell.textContent);
  if (!answered.length || answered[0].offsetLeft + answered[0].offsetWidth <= holder.clientWidth) return;
  const last = answered[answered.length - 1];
  const first = answered[0].offsetLeft - table.querySelector("th").offsetWidth;
  holder.scrollLeft = Math.min(first, last.offsetLeft + last.offsetWidth - holder.clientWidth);
}

/** Marks the place of the query in focus, where the queries of the layer are the inputs. */
function markExample(table, { query, layer }) {
  for (const cell of table.querySelectorAll(".here")) cell.classList.remove("here");
  const { queries, pooled } = run.layers[layer] ?? {};
  if (query === null || queries !== "inputs" || pooled) return;
  for (const cell of table.querySelectorAll(`[data-place="${query}"]`)) cell.classList.add("here");
}

/** Says how much of the example is right, or why the answers are not there. */
function exampleWords({ snapshot, example }) {
  const { sequences, targets, scored, picture } = run.examples[example];
  const asked = targets.map((_, place) => place).filter((place) => scored[place]);
  const source = sequences.source && !picture ? `Comes in: ${sequences.source.map((t) => tokenLabel(t, 12)).join(" ")}. ` : "";
  const answers = asked.map((place) => answerAt(snapshot, example, place));
  if (!answers.length) return source;
  if (answers.some((answer) => answer === null)) {
    return `${source}What the model answered at this step was not kept: the folder is of an older run.`;
  }
  if (asked.length === 1) {
    const judged = answers[0] === targets[asked[0]] ? "which is right" : `which is wrong: ${quoted(targets[asked[0]])} is right`;
    return `${source}At step ${run.steps[snapshot].toLocaleString("en")} the model says ${quoted(answers[0])}, ${judged}.`;
  }
  const right = asked.filter((place, i) => answers[i] === targets[place]).length;
  return `${source}At step ${run.steps[snapshot].toLocaleString("en")}, ${right} of ${asked.length} answers are right`
    + `${right < asked.length ? "; wrong ones are underlined" : ""}.`;
}

/** Says with one query of the example why the oracle is where it is; nothing where there is no oracle. */
function oracleWords({ example }) {
  const layer = run.layers.findIndex((each) => each.oracle);
  if (layer < 0) return "";
  const { sequences, targets, oracle, scored } = run.examples[example];
  const query = oracle.findIndex((keys, place) => scored[place] && keys.length);
  if (query < 0) return "";
  const keys = sequences[run.layers[layer].keys];
  const named = oracle[query].slice(0, 4).map((key) => `${key} ${quoted(keys[key])}`);
  const more = oracle[query].length > 4 ? ` and ${oracle[query].length - 4} more` : "";
  const [many, hold] = oracle[query].length > 1 ? ["keys", "hold"] : ["key", "holds"];
  return `In the example below, query ${query} must answer ${quoted(targets[query])}, and ${many} ${named.join(", ")}`
    + `${more} ${hold} what decides it: that is its oracle.`;
}

const SPOT = 98;

/** Shows a picture once for each query, its patches as bright as their weights; the query in focus is marked. */
function showPicture(holder, filter, picture, state, choose) {
  const { rows, columns } = picture;
  const buttons = filter.queries.map((token, query) => {
    const named = { "data-query": query, "aria-pressed": state.query === query };
    const button = element("button", { type: "button", class: "spot", ...named });
    const svg = button.appendChild(shape("svg", { width: SPOT, height: (SPOT * rows) / columns, role: "img" }));
    fill(svg, { viewBox: `0 0 ${columns} ${rows}`, "aria-label": focusWords(filter, { query, key: null }) });
    svg.append(shape("image", { href: `data:image/png;base64,${picture.png}`, width: columns, height: rows }));
    filter.keys.forEach((_, key) => svg.append(...patch(filter, state, query, key, columns)));
    const answer = filter.answer(query);
    const said = element("span", { class: answer !== null && answer !== filter.target(query) ? "wrong" : "" });
    said.textContent = tokenLabel(answer ?? filter.target(query), 12);
    button.append(element("span", { class: "reads" }, `${tokenLabel(token, 12)} →`), said);
    button.addEventListener("click", () => choose(query));
    return button;
  });
  holder.replaceChildren(...buttons);
}

function patch(filter, state, query, key, columns) {
  const level = filter.level(query, key);
  const weight = level > TOP_LEVEL ? 0 : level / TOP_LEVEL;
  const place = { x: key % columns, y: Math.floor(key / columns), width: 1, height: 1 };
  const veil = shape("rect", { ...place, class: "veil", "fill-opacity": (0.86 * (1 - Math.sqrt(weight))).toFixed(3) });
  const found = [veil];
  if (state.oracle && filter.oracle(query).includes(key)) {
    const inner = { x: place.x + 0.03, y: place.y + 0.03, width: 0.94, height: 0.94 };
    found.push(shape("rect", { ...inner, class: "outlined", "stroke-width": 0.05 }));
  }
  if (state.query === query && weight >= 0.02) {
    const words = { x: place.x + 0.5, y: place.y + 0.6, "text-anchor": "middle", "font-size": 0.36, class: "amount" };
    found.push(shape("text", words, weight.toFixed(2)));
  }
  return found;
}
