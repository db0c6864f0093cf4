// The picture of a pooled filter: a map whose cells stand for several queries and keys.

const MAP_SIDE = 512;
const LEAST_FRAMED = 5;

/** Writes the weight of a cell as what is known of it: level n stands for the square of n / 254. */
function pooledText(level) {
  if (level > TOP_LEVEL) return "not a number";
  if (level === 0) return "below 0.00001";
  if (level === TOP_LEVEL) return "above 0.996";
  return `≈ ${Number(((level / TOP_LEVEL) ** 2).toPrecision(2))}`;
}

/** Returns the room that the map takes: cells are whole pixels of the screen, so that all look alike. */
function planMap(filter, width) {
  const letters = Math.max(...[...filter.queries, ...filter.keys].map((bin) => binText(bin).length));
  const left = 18 + 7 * letters;
  const side = Math.max(filter.queries.length, filter.keys.length);
  const cell = Math.min(30, MAP_SIDE / side, (width - left - 2) / filter.keys.length);
  const pixel = 1 / (window.devicePixelRatio || 1);
  return { left, top: 24, cell: Math.max(pixel, Math.floor(cell / pixel + 1e-6) * pixel) };
}

/** Draws the map: cells on a canvas, and over it positions, the oracle, and marks of what is in focus and chosen. */
function drawMap(holder, filter, state, colours) {
  const { left, top, cell } = planMap(filter, holder.clientWidth);
  const [rows, columns] = [filter.queries.length, filter.keys.length];
  const [wide, high] = [columns * cell, rows * cell];
  const canvas = holder.querySelector("canvas");
  paint(canvas, rows, columns, filter.level, colours);
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` });
  const svg = clearPicture(holder, left + wide + 2, top + high + 8, matrixWords(filter, state));
  addPositions(svg, filter, state, { left, top, cell });
  const row = svg.appendChild(shape("rect", { class: "band off", x: left, width: wide, height: cell }));
  const column = svg.appendChild(shape("rect", { class: "band off", y: top, width: cell, height: high }));
  svg.append(shape("rect", { class: "frame", x: left - 0.5, y: top - 0.5, width: wide + 1, height: high + 1 }));
  if (state.oracle) svg.append(...mapOutlines(oracleCells(filter, state), left, top, cell));
  const mark = svg.appendChild(shape("path", { class: "mark" }));
  return {
    placeOf(x, y) {
      const [query, key] = [Math.floor((y - top) / cell), Math.floor((x - left) / cell)];
      if (query >= rows || key >= columns) return { query: null, key: null };
      return { query: query < 0 ? null : query, key: key < 0 ? null : key };
    },
    showFocus({ query, key, row: chosen }) {
      fill(row, { class: query === null ? "band off" : "band", y: top + query * cell });
      fill(column, { class: key === null ? "band off" : "band", x: left + key * cell });
      markLabels(svg, query, key);
      const at = top + (binAt(filter.queries, chosen) + 0.5) * cell;
      fill(mark, { d: `M${left - 2} ${at}l-7 -4v8z` });
    },
  };
}

/** Writes which positions some rows and columns stand for: the first, the last and some between. */
function addPositions(svg, filter, state, { left, top, cell }) {
  const size = 11;
  for (const i of ticks(filter.queries.length, (filter.queries.length * cell) / 16)) {
    const place = { x: left - 12, y: top + (i + 0.5) * cell + size / 3, "text-anchor": "end" };
    const words = { "font-size": size, class: binClass(filter, state, i), "data-side": "query", "data-index": i };
    svg.append(shape("text", { ...place, ...words }, binText(filter.queries[i])));
  }
  const letters = binText(filter.keys.at(-1)).length;
  for (const i of ticks(filter.keys.length, (filter.keys.length * cell) / (8 * letters + 12))) {
    const anchor = i === 0 ? "start" : i === filter.keys.length - 1 ? "end" : "middle";
    const place = { x: left + (i + (anchor === "middle" ? 0.5 : i && 1)) * cell, y: top - 8, "text-anchor": anchor };
    const words = { "font-size": size, "data-side": "key", "data-index": i };
    svg.append(shape("text", { ...place, ...words }, binText(filter.keys[i])));
  }
}

function ticks(count, room) {
  const number = Math.max(1, Math.min(count, 5, Math.floor(room)));
  const last = Math.max(1, number - 1);
  return Array.from({ length: number }, (_, i) => Math.round((i * (count - 1)) / last));
}

/** Returns the class of a row's label: quiet where queries of its layer are scored and none of its own is. */
function binClass(filter, state, row) {
  if (!run.layers[state.layer].oracle) return "";
  const { first, last } = filter.queries[row];
  for (let query = first; query <= last; query++) if (isScored(state.example, state.layer, query)) return "";
  return "quiet";
}

/** Returns the cells that hold the answer of any of their queries: for each row that has any, its columns. */
function oracleCells(filter, { example, layer }) {
  const cells = new Map();
  filter.tokens.queries.forEach((_, query) => {
    const row = binAt(filter.queries, query);
    for (const key of oracleKeys(example, layer, query)) {
      if (!cells.has(row)) cells.set(row, new Set());
      cells.get(row).add(binAt(filter.keys, key));
    }
  });
  return cells;
}

/** Outlines the cells of the oracle: each inside, or small ones around all that touch, so that their ink is seen. */
function mapOutlines(cells, left, top, cell) {
  const each = [...cells].flatMap(([row, columns]) => [...columns].map((column) => [row, column]));
  if (cell >= LEAST_FRAMED) {
    const side = { width: cell - 1, height: cell - 1, class: "outlined" };
    return each.map(([row, column]) => (
      shape("rect", { ...side, x: left + column * cell + 0.5, y: top + row * cell + 0.5 })
    ));
  }
  const has = (row, column) => cells.get(row)?.has(column);
  const path = each.map(([row, column]) => {
    const [x, y] = [left + column * cell, top + row * cell];
    return (has(row - 1, column) ? "" : `M${x} ${y - 0.5}h${cell}`)
      + (has(row + 1, column) ? "" : `M${x} ${y + cell + 0.5}h${cell}`)
      + (has(row, column - 1) ? "" : `M${x - 0.5} ${y}v${cell}`)
      + (has(row, column + 1) ? "" : `M${x + cell + 0.5} ${y}v${cell}`);
  });
  return path.length ? [shape("path", { class: "around", d: path.join("") })] : [];
}

/** Names a bin of queries or keys. */
function binName(side, bin) {
  const many = side === "query" ? "queries" : "keys";
  return `${bin.first === bin.last ? side : many} ${binText(bin)}`;
}

/** Says what the cell of a map stands for: lines for the tooltip. */
function cellLines(filter, { query, key, example, layer }) {
  const [queries, keys] = [filter.queries[query], filter.keys[key]];
  const inside = oracleCells(filter, { example, layer }).get(query)?.has(key);
  const scored = binClass(filter, { example, layer }, query) === "";
  const onOracle = inside ? "oracle: in this cell" : "oracle: not in this cell";
  const several = queries.first < queries.last || keys.first < keys.last;
  const unscored = queries.first === queries.last ? "this query is not scored" : "none of these queries is scored";
  return [
    binName("query", queries),
    binName("key", keys),
    `pooled weight ${pooledText(filter.level(query, key))}`,
    several && "the mean over these queries of their weight on these keys",
    run.layers[layer].oracle && (scored ? onOracle : unscored),
  ];
}

/** Says in words where the map has the most weight in the row or column in focus. */
function mapWords(filter, { query, key }) {
  if (query !== null) {
    const words = (i) => `${binName("key", filter.keys[i])} ${pooledText(filter.level(query, i))}`;
    const found = largest(filter.keys.length, (i) => filter.level(query, i), words);
    return `${binName("query", filter.queries[query])}: most weight on ${found}`;
  }
  if (key !== null) {
    const words = (i) => `${binName("query", filter.queries[i])} ${pooledText(filter.level(i, key))}`;
    const found = largest(filter.queries.length, (i) => filter.level(i, key), words);
    return `${binName("key", filter.keys[key])}: most weight from ${found}`;
  }
  return "Point at a cell to see what it stands for; click a row to see its queries one by one.";
}
