// Filters as lines from queries to keys: one filter in ink, or several over one another, each in its colour.

const HEAD_COLOURS = 8;

/** Draws queries on the left, keys on the right, and a line for each weight above a threshold; dashes show the oracle. */
function drawLines(holder, filters, { oracle, threshold }) {
  const [{ filter }] = filters;
  const room = (tokens) => 12 + 8 * Math.max(...tokens.map((token) => Array.from(tokenLabel(token)).length), 1);
  const span = Math.min(holder.clientWidth, 480);
  const [left, right] = [room(filter.queries), span - room(filter.keys)];
  const count = Math.max(filter.queries.length, filter.keys.length);
  const row = Math.min(30, SIDE / count);
  const top = 24;
  const words = `Lines from queries to keys of ${filters.map((each) => each.filter.name).join("; ")}. `
    + "Up and down choose a query.";
  const svg = clearPicture(holder, span, top + count * row + 2, words);
  const at = (index) => top + (index + 0.5) * row;
  const join = (query, key, more) => shape("line", {
    x1: left, y1: at(query), x2: right, y2: at(key), "data-query": query, "data-key": key, ...more,
  });
  for (const each of filters) svg.append(...weightLines(each, threshold, join));
  if (oracle) {
    filter.queries.forEach((_, query) => svg.append(
      ...filter.oracle(query).map((key) => join(query, key, { class: "answer" })),
    ));
  }
  addTokens(svg, filter, row, { query: left - 6, key: right + 6 }, at);
  return {
    placeOf(x, y) {
      const index = Math.floor((y - top) / row);
      const side = x < (left + right) / 2 ? "query" : "key";
      const many = (side === "query" ? filter.queries : filter.keys).length;
      return { query: null, key: null, ...(index >= 0 && index < many ? { [side]: index } : {}) };
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

/** Returns the lines of one filter whose weight reaches the threshold. */
function weightLines({ filter, colour }, threshold, join) {
  const lines = [];
  filter.queries.forEach((_, query) => filter.keys.forEach((_, key) => {
    const level = filter.level(query, key);
    const weight = level > TOP_LEVEL ? 0 : level / TOP_LEVEL;
    if (weight <= 0 || weight < threshold || !filter.visible(query, key)) return;
    const ink = { class: "line", "stroke-opacity": weight, "stroke-width": 1 + 1.5 * weight };
    lines.push(join(query, key, colour ? { ...ink, stroke: colour } : ink));
  }));
  return lines;
}

/** Adds the tokens of both sides as labels; where there is little room, every n-th. */
function addTokens(svg, filter, gap, x, at) {
  const size = fontSize(gap);
  const every = Math.ceil(size / gap);
  for (const [side, tokens] of [["query", filter.queries], ["key", filter.keys]]) {
    tokens.forEach((token, index) => {
      if (index % every) return;
      const place = { x: x[side], y: at(index) + size / 3, "text-anchor": side === "query" ? "end" : "start" };
      const quiet = side === "query" ? rowClass(filter, index) : "";
      const words = { "font-size": size, "data-side": side, "data-index": index, class: quiet };
      svg.append(shape("text", { ...place, ...words }, tokenLabel(token)));
    });
  }
}

/** Returns the colour of a head among those drawn over one another. */
function headColour(head) {
  return `var(--head-${head % HEAD_COLOURS})`;
}
