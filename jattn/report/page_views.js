// The two pictures of one filter: the matrix, and lines from queries to keys.
//
// Each is drawn by a function that returns two others: placeOf(x, y) tells which query and key lie at a point of the
// picture, and showFocus({ query, key }) shows what is in focus.

const LEAST_LINE = 0.02;

/** Returns the sizes that both pictures share, so that a query stands at one height in both. */
function planViews(filter, width) {
  const room = (tokens) => 12 + 8 * Math.max(...tokens.map((token) => Array.from(tokenLabel(token)).length), 1);
  const [left, right] = [room(filter.queries), room(filter.keys)];
  const upright = right > 28;
  const side = Math.max(filter.queries.length, filter.keys.length);
  const cell = Math.max(2, Math.min(30, 480 / side, (width - left - 2) / filter.keys.length));
  const row = Math.max(cell, Math.min(11, 640 / side));
  return { left, right, top: upright ? right : 22, upright, cell, row, width };
}

function fontSize(gap) {
  return Math.max(7, Math.min(13, 0.78 * gap));
}

/** Draws the matrix: cells on a canvas, and over it tokens, outlines of the oracle, and the row or column in focus. */
function drawMatrix(holder, filter, state, colours) {
  const { left, top, upright, cell, width } = planViews(filter, holder.clientWidth);
  const [rows, columns] = [filter.queries.length, filter.keys.length];
  const [wide, high] = [columns * cell, rows * cell];
  const canvas = holder.querySelector("canvas");
  paint(canvas, rows, columns, filter.level, colours);
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` });
  const svg = clearPicture(holder, Math.min(width, left + wide + 2), top + high + 2, matrixWords(filter, state));
  const size = fontSize(cell);
  addLabels(svg, filter.queries, "query", cell, (i) => (
    { x: left - 6, y: top + (i + 0.5) * cell + size / 3, "text-anchor": "end", class: queryClass(state, i) }
  ));
  addLabels(svg, filter.keys, "key", cell, (i) => {
    const x = left + (i + 0.5) * cell;
    if (!upright) return { x, y: top - 6, "text-anchor": "middle" };
    return { x: x + size / 3, y: top - 6, transform: `rotate(-90 ${x + size / 3} ${top - 6})` };
  });
  const row = svg.appendChild(shape("rect", { class: "band off", x: left, width: wide, height: cell }));
  const column = svg.appendChild(shape("rect", { class: "band off", y: top, width: cell, height: high }));
  svg.append(shape("rect", { class: "frame", x: left - 0.5, y: top - 0.5, width: wide + 1, height: high + 1 }));
  svg.append(...(state.oracle ? oracleOutlines(filter, state, left, top, cell) : []));
  return {
    placeOf(x, y) {
      const [query, key] = [Math.floor((y - top) / cell), Math.floor((x - left) / cell)];
      if (query >= rows || key >= columns) return { query: null, key: null };
      return { query: query < 0 ? null : query, key: key < 0 ? null : key };
    },
    showFocus({ query, key }) {
      fill(row, { class: query === null ? "band off" : "band", y: top + query * cell });
      fill(column, { class: key === null ? "band off" : "band", x: left + key * cell });
      markLabels(svg, query, key);
    },
  };
}

function matrixWords(filter, state) {
  const { name } = run.layers[state.layer];
  return `Attention filter of ${name}, head ${state.head}, at step ${run.steps[state.snapshot]}: `
    + `${filter.queries.length} queries, ${filter.keys.length} keys. Up and down choose a query.`;
}

function oracleOutlines(filter, state, left, top, cell) {
  const stroke = cell > 9 ? 2 : 1;
  const side = { width: cell - stroke, height: cell - stroke, "stroke-width": stroke, class: "outlined" };
  return filter.queries.flatMap((_, query) => oracleKeys(state.example, state.layer, query).map((key) => (
    shape("rect", { ...side, x: left + key * cell + stroke / 2, y: top + query * cell + stroke / 2 })
  )));
}

/** Draws queries on the left, keys on the right, and a line for each weight that counts; dashes show the oracle. */
function drawLines(holder, filter, state) {
  const { left, right: room, top: high, row, width } = planViews(filter, holder.clientWidth);
  const top = holder.getBoundingClientRect().left < width ? 6 : high;
  const span = Math.min(width, 480);
  const right = span - room;
  const height = Math.max(filter.queries.length, filter.keys.length) * row;
  const svg = clearPicture(holder, span, top + height + 2, "Lines from queries to keys. Up and down choose a query.");
  const at = (index) => top + (index + 0.5) * row;
  const join = (query, key, more) => shape("line", {
    x1: left, y1: at(query), x2: right, y2: at(key), "data-query": query, "data-key": key, ...more,
  });
  filter.queries.forEach((_, query) => svg.append(...queryLines(filter, state, query, join)));
  const low = fontSize(row) / 3;
  addLabels(svg, filter.queries, "query", row, (i) => (
    { x: left - 6, y: at(i) + low, "text-anchor": "end", class: queryClass(state, i) }
  ));
  addLabels(svg, filter.keys, "key", row, (i) => ({ x: right + 6, y: at(i) + low }));
  return {
    placeOf(x, y) {
      const index = Math.floor((y - top) / row);
      const side = x < (left + right) / 2 ? "query" : "key";
      const count = side === "query" ? filter.queries.length : filter.keys.length;
      return { query: null, key: null, ...(index >= 0 && index < count ? { [side]: index } : {}) };
    },
    showFocus({ query, key }) {
      for (const line of svg.querySelectorAll("line")) {
        const { query: from, key: to } = line.dataset;
        line.classList.toggle("off", query === null ? key !== null && Number(to) !== key : Number(from) !== query);
      }
      markLabels(svg, query, key);
    },
  };
}

/** Returns the lines of one query: those of weights that count, and over them those of its oracle. */
function queryLines(filter, state, query, join) {
  const levels = filter.keys.map((_, key) => filter.level(query, key));
  const weights = levels.map((level) => (level > TOP_LEVEL ? 0 : level / TOP_LEVEL));
  const seen = filter.keys.map((_, key) => key).filter((key) => weights[key] >= LEAST_LINE);
  const ink = (weight) => ({ class: "line", "stroke-opacity": weight, "stroke-width": 1 + 1.5 * weight });
  const answers = state.oracle ? oracleKeys(state.example, state.layer, query) : [];
  return [
    ...seen.map((key) => join(query, key, ink(weights[key]))),
    ...answers.map((key) => join(query, key, { class: "answer" })),
  ];
}

/** Empties the picture of a holder, or makes it, and gives it its size and words; one that has the focus keeps it. */
function clearPicture(holder, width, height, words) {
  const svg = holder.querySelector("svg") ?? holder.appendChild(shape("svg", { role: "img", tabindex: "0" }));
  svg.replaceChildren();
  return fill(svg, { width, height, "aria-label": words });
}

/** Returns the class of a query's label: quiet where others of its layer are scored and it is not. */
function queryClass(state, query) {
  return run.layers[state.layer].oracle && !isScored(state.example, state.layer, query) ? "quiet" : "";
}

/** Adds the tokens of one side as labels; where there is little room, every n-th. */
function addLabels(svg, tokens, side, gap, place) {
  const size = fontSize(gap);
  const every = Math.ceil(size / gap);
  tokens.forEach((token, index) => {
    if (index % every) return;
    const attributes = { ...place(index), "font-size": size, "data-side": side, "data-index": index };
    svg.append(shape("text", attributes, tokenLabel(token)));
  });
}

function markLabels(svg, query, key) {
  for (const label of svg.querySelectorAll("text")) {
    label.classList.toggle("here", Number(label.dataset.index) === (label.dataset.side === "query" ? query : key));
  }
}

/** Says in words what a token in focus attends to, or what attends to it: the largest weights first. */
function focusWords(filter, { query, key }) {
  const name = (side, tokens, index) => `${side} ${index} ${quoted(tokens[index])}`;
  if (query !== null) {
    const words = (i) => `${name("key", filter.keys, i)} ${weightText(filter.level(query, i))}`;
    const found = largest(filter.keys.length, (i) => filter.level(query, i), words);
    return `${name("query", filter.queries, query)} attends to ${found}`;
  }
  if (key !== null) {
    const words = (i) => `${name("query", filter.queries, i)} ${weightText(filter.level(i, key))}`;
    const found = largest(filter.queries.length, (i) => filter.level(i, key), words);
    return `${name("key", filter.keys, key)} is attended to by ${found}`;
  }
  return "Point at a token or a cell to see it alone.";
}

/** Names the three of `count` that have the largest levels above zero. */
function largest(count, level, words) {
  return Array.from({ length: count }, (_, i) => [level(i), i])
    .filter(([value]) => value > 0).sort((a, b) => b[0] - a[0]).slice(0, 3)
    .map(([, i]) => words(i)).join(", ") || "nothing";
}
