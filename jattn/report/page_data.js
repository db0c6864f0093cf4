// The run, as the page's JSON has it, and the filters that are in it.

const run = JSON.parse(document.getElementById("data").textContent);
for (const weights of run.weights) weights.levels = summed(await inflated(weights.packed), weights.shape[0]);
if (run.answers) run.answers.indices = new Uint16Array((await inflated(run.answers.packed)).buffer);
const NO_ANSWER = 65535;

/** Returns one filter of the run; `parts_matrix.js` says what a filter is. */
function filterAt(snapshot, example, layer, head) {
  const { shape, levels, coarse } = run.weights[layer];
  const [, examples, heads, rows, columns] = shape;
  const start = ((snapshot * examples + example) * heads + head) * rows * columns;
  const { sequences } = run.examples[example];
  const { pooled, name, oracle, ...sides } = run.layers[layer];
  const tokens = { queries: sequences[sides.queries], keys: sequences[sides.keys] };
  const of = { ...tokens };
  if (pooled) Object.assign(of, { queries: binsOf(rows, of.queries.length), keys: binsOf(columns, of.keys.length) });
  const mask = maskOf(layer, example, of.queries.length, of.keys.length);
  const isScored = (query) => oracle && run.examples[example].scored[query];
  return {
    ...of, tokens, pooled, coarse: coarse[snapshot],
    name: `${name}, head ${head}`,
    moment: `, at step ${run.steps[snapshot]}`,
    level: (query, key) => levels[start + query * columns + key],
    visible: (query, key) => !mask || mask[query * of.keys.length + key] === 1,
    hasOracle: oracle,
    isScored,
    oracle: (query) => (isScored(query) ? run.examples[example].oracle[query] : []),
    target: (query) => (sides.queries === "inputs" ? run.examples[example].targets[query] : ""),
    answer: (query) => (sides.queries === "inputs" ? answerAt(snapshot, example, query) : null),
  };
}

const masks = new Map();

/** Returns which keys of a layer may be attended to, row by row; null where all may be, or it is not known. */
function maskOf(layer, example, rows, columns) {
  const ranges = run.visible[run.layers[layer].name]?.[example];
  if (!ranges) return null;
  const place = `${layer} ${example}`;
  if (!masks.has(place)) {
    const mask = new Uint8Array(rows * columns);
    ranges.forEach((row, query) => {
      for (let i = 0; i < row.length; i += 2) mask.fill(1, query * columns + row[i], query * columns + row[i + 1]);
    });
    masks.set(place, mask);
  }
  return masks.get(place);
}

/** Returns what the model answered at a query of the inputs; null where that was not kept. */
function answerAt(snapshot, example, query) {
  if (!run.answers) return null;
  const [, examples, queries] = run.answers.shape;
  const index = run.answers.indices[(snapshot * examples + example) * queries + query];
  return index === NO_ANSWER ? null : run.answers.texts[index];
}

/** Returns mass, hit rate and entropy of one filter; null for what is not known. */
function measuresAt(snapshot, example, layer, head) {
  const measures = run.measures[layer][snapshot][example];
  return { mass: measures.mass[head], hitRate: measures.hit_rate[head], entropy: measures.entropy[head] };
}

/** Returns the mass on the oracle of a query with equal weight on every visible key; null where not known. */
function chanceOf(filter) {
  if (filter.pooled) return null;
  const parts = [];
  filter.queries.forEach((_, query) => {
    const right = filter.oracle(query).filter((key) => filter.visible(query, key));
    const seen = filter.keys.filter((_, key) => filter.visible(query, key));
    if (filter.oracle(query).length && seen.length) parts.push(right.length / seen.length);
  });
  return parts.length ? parts.reduce((sum, part) => sum + part, 0) / parts.length : null;
}

/** Names an example by its first tokens. */
function exampleName(index) {
  const { sequences, picture, targets, scored } = run.examples[index];
  const read = picture ? targets.filter((_, query) => scored[query]) : sequences.source ?? sequences.inputs;
  const words = read.slice(0, 4).map((token) => tokenLabel(token, 12));
  return words.join(" ") + (read.length > 4 ? " …" : "");
}
