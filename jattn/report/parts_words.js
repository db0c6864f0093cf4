// Filters in words: what a cell is, and what a query or a key in focus attends to.

/** Names a query or a key: a token by its position and text, a bin by the positions that it holds. */
function nameOf(filter, side, index) {
  const item = (side === "query" ? filter.queries : filter.keys)[index];
  if (!filter.pooled) return `${side} ${index} ${quoted(item)}`;
  const many = side === "query" ? "queries" : "keys";
  return `${item.first === item.last ? side : many} ${binText(item)}`;
}

/** Says in words what a token in focus attends to, or what attends to it: the largest weights first. */
function focusWords(filter, { query, key }) {
  if (query !== null) {
    const words = (i) => `${nameOf(filter, "key", i)} ${cellText(filter, query, i)}`;
    const found = largest(filter.keys.length, (i) => filter.level(query, i), words);
    if (filter.pooled) return `${nameOf(filter, "query", query)}: most weight on ${found}`;
    return `${nameOf(filter, "query", query)} attends to ${found}. ${answerWords(filter, query)}`.trim();
  }
  if (key !== null) {
    const words = (i) => `${nameOf(filter, "query", i)} ${cellText(filter, i, key)}`;
    const found = largest(filter.queries.length, (i) => filter.level(i, key), words);
    return `${nameOf(filter, "key", key)}${filter.pooled ? ": most weight from" : " is attended to by"} ${found}`;
  }
  return filter.pooled
    ? "Point at a cell to see what it stands for; click a row to see its queries one by one."
    : "Point at a token or a cell to see it alone; a click keeps it until Escape.";
}

/** Says what the model answers at a query, and whether that is right; nothing where no answer is asked for. */
function answerWords(filter, query) {
  const [target, answer] = [filter.target(query), filter.answer(query)];
  if (!target) return "";
  if (answer === null) return `The right answer is ${quoted(target)}.`;
  if (answer === target) return `The model answers ${quoted(answer)}, which is right.`;
  return `The model answers ${quoted(answer)}, which is wrong: ${quoted(target)} is right.`;
}

/** Says what a cell is: lines for the tooltip. */
function cellLines(filter, { query, key }) {
  if (filter.pooled) return mapLines(filter, query, key);
  const [target, answer] = [filter.target(query), filter.answer(query)];
  const onOracle = filter.oracle(query).includes(key) ? "oracle: yes" : "oracle: no";
  const seen = filter.visible(query, key);
  return [
    nameOf(filter, "query", query),
    target && `its right answer ${quoted(target)}`,
    target && answer !== null && `the model's answer ${quoted(answer)}, ${answer === target ? "right" : "wrong"}`,
    nameOf(filter, "key", key),
    seen ? `weight ${cellText(filter, query, key)}` : "masked: this query may not attend to this key",
    filter.hasOracle && (filter.isScored(query) ? onOracle : "this query is not scored"),
  ];
}

function mapLines(filter, query, key) {
  const [queries, keys] = [filter.queries[query], filter.keys[key]];
  const inside = oracleCells(filter).get(query)?.has(key);
  const onOracle = inside ? "oracle: in this cell" : "oracle: not in this cell";
  const several = queries.first < queries.last || keys.first < keys.last;
  const unscored = queries.first === queries.last ? "this query is not scored" : "none of these queries is scored";
  const seen = filter.visible(query, key);
  return [
    nameOf(filter, "query", query),
    nameOf(filter, "key", key),
    seen ? `pooled weight ${cellText(filter, query, key)}` : "masked: none of these queries may attend to these keys",
    seen && several && "the mean over these queries of their weight on these keys",
    filter.hasOracle && (rowClass(filter, query) === "" ? onOracle : unscored),
  ];
}
