// Two texts side by side: where the second looks more (ink) and where the first does (accent).

const comparable = texts.length === 2
  && (texts.every((text) => text.whole) || (texts[0].count === texts[1].count && texts[0].side === texts[1].side));
const places = !comparable ? [] : texts[0].whole
  ? data.aligned : Array.from({ length: texts[0].side }, (_, place) => [place, place]);

// What a query of the difference map looks at in the first text and in the second.
function both(layer, head, row, column) {
  return [0, 1].map((which) => texts[which].weight(layer, head, places[row][which], places[column][which]));
}

function paintChange(canvas, layer, head) {
  paintCells(canvas, places.length, places.length, (row, column) => {
    const [first, second] = both(layer, head, row, column), change = second - first;
    if (isNaN(change)) return NO_NUMBER.pixel;
    return changes[TOP + Math.sign(change) * Math.round(Math.sqrt(Math.abs(change)) * TOP)];
  });
}

function describeChange(layer, head, row, column) {
  const [first, second] = both(layer, head, row, column);
  const [query, key] = [row, column].map((at) => {
    const [one, other] = [0, 1].map((which) => texts[which].whole
      ? `“${texts[which].shown(places[at][which]).trim()}”` : texts[which].span(places[at][which]));
    return one === other ? one : `${one} | ${other}`;
  });
  return `${query} → ${key}: ${figure(first)} in the first, ${figure(second)} in the second`;
}

// The heads whose weights move most between the texts.
function mostChanged() {
  const found = [];
  layers.forEach((layer, index) => (layer.changes ?? []).forEach((change, head) => {
    if (change !== null) found.push([index, head, change]);
  }));
  return found.sort((a, b) => b[2] - a[2]);
}

function describePair() {
  if (texts.length < 2) return;
  byId("other").hidden = byId("shows").hidden = byId("changed-box").hidden = false;
  byId("texts").classList.add("pair");
  byId("text-title").textContent = "Texts";
  byId("pair-note").hidden = false;
  byId("pair-note").textContent = comparable
    ? `The difference is the weight in the second text minus that in the first, of the ${places.length} ` +
      `${texts[0].whole ? "tokens that both texts have or that stand for one another" : "rows and columns of the maps"}.`
    : "The texts are long and of different lengths, so there is no map of their difference.";
  for (const input of document.querySelectorAll("input[name=shows]")) {
    input.disabled = input.value === "change" && !comparable;
    input.checked = input.value === state.shows;
  }
}
