// The matrix of a filter, whole or pooled: cells of ink, hatched where nothing may be attended, the oracle outlined.
//
// A filter, of a run or of anything else, is an object of
//   name, moment       what it is, and when: for those who cannot see it
//   queries, keys      tokens; of one that is pooled, bins of positions, each with its `first` and `last`
//   tokens             the tokens of both sides: { queries, keys }
//   pooled, coarse     whether it is a map, and whether its levels are rounded to 33
//   level(query, key)  0 to 254 for weight 0 to 1, of a map for its root; 255 for what is not a number
//   visible(query, key)  whether the key may be attended to
//   hasOracle, isScored(query), oracle(query)  of tokens: whether an answer is asked for, and the keys that hold it
//   target(query), answer(query)  of tokens: the right answer and the model's; "" for none, null for not known
//
// What draws it returns placeOf(x, y), the query and the key at a point of the picture, and showFocus(state).

const SIDE = 440;
const MAP_SIDE = 512;
const LEAST_FRAMED = 5;
const LEAST_NAMED = 9;

/** Returns the part of a filter that is shown: all of it, or the rows and columns of a zoom. */
function viewOf(filter, zoom) {
  const whole = { rows: [0, filter.queries.length], columns: [0, filter.keys.length] };
  if (!zoom) return whole;
  const fit = ([first, end], count) => [Math.min(first, count - 1), Math.max(Math.min(end, count), first + 1)];
  return { rows: fit(zoom.rows, whole.rows[1]), columns: fit(zoom.columns, whole.columns[1]) };
}

/** Writes what stands beside a row or above a column. */
function sideLabel(filter, side, index) {
  const items = side === "query" ? filter.queries : filter.keys;
  return filter.pooled ? binText(items[index]) : tokenLabel(items[index]);
}

/** Returns where the cells lie and how large they are; of a map whole pixels of the screen, so that all look alike. */
function planMatrix(filter, width, view) {
  const [rows, columns] = [view.rows[1] - view.rows[0], view.columns[1] - view.columns[0]];
  const longest = (items, side) => Math.max(...items.map((_, i) => Array.from(sideLabel(filter, side, i)).length), 1);
  const left = 14 + 8 * longest(filter.queries, "query");
  const answers = filter.pooled || filter.tokens.queries.every((_, query) => !filter.target(query)) ? 0 : 58;
  const room = Math.max(40, width - left - answers - 2);
  if (!filter.pooled) {
    const cell = Math.max(2, Math.min(30, SIDE / Math.max(rows, columns), room / columns));
    const letters = longest(filter.keys, "key");
    // Two letters stand side by side where they leave a gap to the next column.
    const upright = letters > 2 || (letters === 2 && 1.2 * fontSize(cell) + 3 > cell);
    const top = upright ? 12 + 8 * letters : 24;
    return { left, top, cell, rows, columns, upright, answers };
  }
  const pixel = 1 / (window.devicePixelRatio || 1);
  const wanted = Math.min(30, MAP_SIDE / Math.max(rows, columns), room / columns);
  const cell = Math.max(pixel, Math.floor(wanted / pixel + 1e-6) * pixel);
  return { left, top: 24, cell, rows, columns, upright: false, answers };
}

/** Draws the matrix of a filter into a holder with a canvas. */
function drawMatrix(holder, filter, { oracle, zoom, colours }) {
  const view = viewOf(filter, zoom);
  const plan = { ...planMatrix(filter, holder.clientWidth, view), first: view.rows[0], from: view.columns[0] };
  const { left, top, cell, rows, columns, first, from } = plan;
  const [wide, high] = [columns * cell, rows * cell];
  const canvas = holder.querySelector("canvas");
  paint(canvas, rows, columns, (row, column) => filter.level(first + row, from + column), colours);
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` });
  const svg = clearPicture(holder, left + wide + plan.answers + 2, top + high + 8, matrixWords(filter));
  svg.append(...hatching(filter, plan));
  addSides(svg, filter, plan);
  if (plan.answers) addAnswers(svg, filter, plan);
  const row = svg.appendChild(shape("rect", { class: "band off", x: left, width: wide, height: cell }));
  const column = svg.appendChild(shape("rect", { class: "band off", y: top, width: cell, height: high }));
  svg.append(shape("rect", { class: "frame", x: left - 0.5, y: top - 0.5, width: wide + 1, height: high + 1 }));
  if (oracle) svg.append(...outlines(filter, plan));
  const mark = svg.appendChild(shape("path", { class: "mark" }));
  const drag = svg.appendChild(shape("rect", { class: "drag off" }));
  const beside = svg.appendChild(shape("text", { class: "beside off", x: left + wide + 10, "font-size": 13 }));
  const inside = (query) => query !== null && query >= first && query < first + rows;
  return {
    plan,
    placeOf(x, y) {
      const [r, c] = [Math.floor((y - top) / cell), Math.floor((x - left) / cell)];
      if (r >= rows || c >= columns + (plan.answers ? 58 / cell : 0)) return { query: null, key: null };
      return { query: r < 0 ? null : first + r, key: c < 0 || c >= columns ? null : from + c };
    },
    showFocus({ query, key, row: chosen }) {
      fill(row, { class: inside(query) ? "band" : "band off", y: top + (query - first) * cell });
      const shown = key !== null && key >= from && key < from + columns;
      fill(column, { class: shown ? "band" : "band off", x: left + (key - from) * cell });
      markLabels(svg, query, key);
      showAnswer(beside, inside(query) && plan.answers ? answerBeside(filter, query) : null);
      fill(beside, { y: top + (query - first + 0.5) * cell + 4 });
      for (const label of svg.querySelectorAll("[data-says]")) {
        label.classList.toggle("off", Number(label.dataset.says) === query && beside.textContent !== "");
      }
      const bin = filter.pooled ? binAt(filter.queries, chosen) : null;
      const at = top + (bin - first + 0.5) * cell;
      fill(mark, { d: inside(bin) ? `M${left - 2} ${at}l-7 -4v8z` : "" });
    },
    showDrag(box) {
      fill(drag, box ? { class: "drag", ...box } : { class: "drag off" });
    },
  };
}

function matrixWords(filter) {
  return `Attention filter of ${filter.name}${filter.moment ?? ""}: ${filter.tokens.queries.length} queries, `
    + `${filter.tokens.keys.length} keys. Up and down choose a query.`;
}

/** Hatches the cells that may not be attended to: runs of them in each row, as one shape. */
function hatching(filter, { left, top, cell, rows, columns, first, from }) {
  const path = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const start = column;
      while (column < columns && !filter.visible(first + row, from + column)) column++;
      if (column === start) continue;
      path.push(`M${left + start * cell} ${top + row * cell}h${(column - start) * cell}v${cell}H${left + start * cell}z`);
    }
  }
  if (!path.length) return [];
  const id = `hatch-${hatching.count = (hatching.count ?? 0) + 1}`;
  const pattern = shape("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  pattern.append(shape("rect", { class: "hatch-paper", width: 6, height: 6 }));
  pattern.append(shape("path", { class: "hatch-line", d: "M-1 1l2 -2M0 6l6 -6M5 7l2 -2" }));
  return [pattern, shape("path", { class: "masked", d: path.join(""), fill: `url(#${id})` })];
}

/** Adds tokens, or positions of a map, beside the rows and above the columns; where there is little room, some. */
function addSides(svg, filter, plan) {
  const { left, top, cell, rows, columns, first, from, upright } = plan;
  const size = filter.pooled ? 11 : fontSize(cell);
  const letters = 8 * sideLabel(filter, "key", from + columns - 1).length + 12;
  const every = Math.ceil(size / cell);
  const all = (count) => Array.from({ length: count }, (_, i) => i).filter((i) => i % every === 0);
  const add = (side, index, place) => svg.append(shape(
    "text", { "font-size": size, "data-side": side, "data-index": index, ...place }, sideLabel(filter, side, index),
  ));
  for (const i of filter.pooled ? ticks(rows, (rows * cell) / 16) : all(rows)) {
    const y = top + (i + 0.5) * cell + size / 3;
    add("query", first + i, { x: left - 8, y, "text-anchor": "end", class: rowClass(filter, first + i) });
  }
  for (const i of filter.pooled ? ticks(columns, (columns * cell) / letters) : all(columns)) {
    const x = left + (i + 0.5) * cell;
    if (upright) {
      add("key", from + i, { x: x + size / 3, y: top - 6, transform: `rotate(-90 ${x + size / 3} ${top - 6})` });
      continue;
    }
    const anchor = !filter.pooled || (i && i < columns - 1) ? "middle" : i ? "end" : "start";
    const shift = { middle: 0, end: cell / 2, start: -cell / 2 }[anchor];
    add("key", from + i, { x: x + shift, y: top - 7, "text-anchor": anchor });
  }
}

function ticks(count, room) {
  const number = Math.max(1, Math.min(count, 5, Math.floor(room)));
  const last = Math.max(1, number - 1);
  return Array.from({ length: number }, (_, i) => Math.round((i * (count - 1)) / last));
}

/** Returns the class of a row's label: quiet where others of the filter are scored and none of its own is. */
function rowClass(filter, row) {
  if (!filter.hasOracle) return "";
  const { first, last } = filter.pooled ? filter.queries[row] : { first: row, last: row };
  for (let query = first; query <= last; query++) if (filter.isScored(query)) return "";
  return "quiet";
}

/** Writes beside each row what the model answers there, or what would be right where that is not known. */
function addAnswers(svg, filter, { left, top, cell, rows, columns, first }) {
  const size = fontSize(cell);
  const x = left + columns * cell + 10;
  const known = filter.tokens.queries.some((_, query) => filter.answer(query));
  svg.append(shape("text", { class: "heading", "font-size": 11, x, y: top - 7 }, known ? "says" : "right"));
  const every = Math.ceil(size / cell);
  for (let i = 0; i < rows; i += every) {
    const [target, answer] = [filter.target(first + i), filter.answer(first + i)];
    if (!target) continue;
    const wrong = known && answer !== target;
    const words = { x, y: top + (i + 0.5) * cell + size / 3, "font-size": size, class: wrong ? "wrong" : "said" };
    svg.append(shape("text", { ...words, "data-says": first + i }, tokenLabel(known ? answer : target)));
  }
}

/** Returns what stands beside a row in focus: the answer and, if it is wrong, what it should have been. */
function answerBeside(filter, query) {
  const [target, answer] = [filter.target(query), filter.answer(query)];
  if (!target) return null;
  const wrong = answer !== null && answer !== target;
  return { wrong, words: wrong ? `${tokenLabel(answer)} ≠ ${tokenLabel(target)}` : tokenLabel(target) };
}

function showAnswer(text, shown) {
  fill(text, { class: shown ? `beside ${shown.wrong ? "wrong" : "said"}` : "beside off" });
  text.textContent = shown?.words ?? "";
}

/** Returns the cells that hold the answer of any of their queries: for each row that has any, its columns. */
function oracleCells(filter) {
  const cells = new Map();
  filter.tokens.queries.forEach((_, query) => {
    const row = filter.pooled ? binAt(filter.queries, query) : query;
    for (const key of filter.oracle(query)) {
      if (!cells.has(row)) cells.set(row, new Set());
      cells.get(row).add(filter.pooled ? binAt(filter.keys, key) : key);
    }
  });
  return cells;
}

/** Outlines the cells of the oracle: each inside, or small ones around all that touch, so that their ink is seen. */
function outlines(filter, { left, top, cell, rows, columns, first, from }) {
  const cells = oracleCells(filter);
  const each = [...cells].flatMap(([row, keys]) => [...keys].map((key) => [row - first, key - from]))
    .filter(([row, column]) => row >= 0 && row < rows && column >= 0 && column < columns);
  if (cell >= LEAST_FRAMED || !filter.pooled) {
    const stroke = cell > LEAST_NAMED ? 2 : 1;
    const side = { width: Math.max(1, cell - stroke), height: Math.max(1, cell - stroke), "stroke-width": stroke };
    return each.map(([row, column]) => shape("rect", {
      ...side, class: "outlined", x: left + column * cell + stroke / 2, y: top + row * cell + stroke / 2,
    }));
  }
  const has = (row, column) => cells.get(row + first)?.has(column + from);
  const path = each.map(([row, column]) => {
    const [x, y] = [left + column * cell, top + row * cell];
    return (has(row - 1, column) ? "" : `M${x} ${y - 0.5}h${cell}`)
      + (has(row + 1, column) ? "" : `M${x} ${y + cell + 0.5}h${cell}`)
      + (has(row, column - 1) ? "" : `M${x - 0.5} ${y}v${cell}`)
      + (has(row, column + 1) ? "" : `M${x + cell + 0.5} ${y}v${cell}`);
  });
  return path.length ? [shape("path", { class: "around", d: path.join("") })] : [];
}

function markLabels(svg, query, key) {
  for (const label of svg.querySelectorAll("text")) {
    const { side, index, says } = label.dataset;
    const here = says === undefined ? Number(index) === (side === "query" ? query : key) : Number(says) === query;
    label.classList.toggle("here", here);
  }
}
