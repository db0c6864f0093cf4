// The large map of the chosen head: the words of its rows and columns, and what its colours mean.

const MOST_WORDS = 48, MOST_NARROW = 28;

/** The words of the rows of the map, which are those of its columns; none of a pooled map, or of too many. */
function mapWords() {
  const word = (which, place) => texts[which].shown(place).trim() || "␣";
  const text = inView();
  if (!text.whole || text.count > MOST_WORDS) return [];
  if (state.shows !== "change") return text.tokens.map((_, place) => word(texts.indexOf(text), place));
  return places.map((pair) => [...new Set(pair.map((place, which) => word(which, place)))].join(" | "));
}

function drawMapWords() {
  const words = mapWords(), which = texts.indexOf(inView());
  const chosen = { "row-words": state.query, "column-words": state.key };
  for (const [id, token] of Object.entries(chosen)) {
    const place = which === state.text ? token : partner(state.text, token);
    const here = state.shows === "change" ? places.findIndex((pair) => pair[which] === place) : place;
    byId(id).style.setProperty("--count", words.length);
    byId(id).classList.toggle("many", words.length > MOST_NARROW);
    byId(id).replaceChildren(...words.map((one, row) => make("span", row === here ? "here" : "", one)));
  }
}

/** Draws the scale below the map. Colours go by the root of a weight, so a quarter is halfway. */
function drawScale() {
  const isChange = state.shows === "change", least = isChange ? -TOP : 0;
  const words = isChange ? ["more in the first", "more in the second"] : ["weight 0", "0.25", "1"];
  paintCells(byId("ramp"), 1, TOP - least + 1, (_, column) => (isChange ? changes[column] : pixels[column]));
  byId("ramp-words").replaceChildren(...words.map((one) => make("span", "", one)));
}
