// Words of the trade that explain themselves when they are pointed at or have the focus.

const TERMS = {
  "mass on the oracle": "The weight that a query puts on the keys of its oracle, on average over the scored queries: "
    + "0 is none, 1 is all of it.",
  "hit rate": "How often the key with a query's largest weight is one of its oracle: 1 is always.",
  lift: "How many times more weight lies on the oracle than with equal weight on every visible key: 1 is chance.",
  entropy: "How widely a query spreads its weight: 0 where all of it is on one key, and the logarithm of the number of "
    + "keys where all have the same.",
  nats: "The unit of entropy with natural logarithms. Equal weight on n keys is ln n nats: 0.69 for two, "
    + "2.77 for 16.",
  "filter score": "The mass on the oracle of the best head, on average over fresh examples: 1 is a filter that looks at "
    + "nothing but the keys that hold the answers.",
  chance: "The mass on the oracle of a query with equal weight on every visible key.",
};

/** Writes a text as nodes in which the words of the trade are buttons that explain them. */
function explained(text) {
  const names = Object.keys(TERMS).sort((a, b) => b.length - a.length);
  return unbroken(text).split(new RegExp(`(${names.join("|")})`)).filter(Boolean)
    .map((part) => (TERMS[part] ? term(part) : document.createTextNode(part)));
}

function term(name) {
  const button = element("button", { type: "button", class: "term", "aria-description": TERMS[name] }, name);
  const show = () => {
    const { left, bottom } = button.getBoundingClientRect();
    showWords([TERMS[name]], left, bottom - 12);
  };
  for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, hideWords);
  return button;
}

/** Shows lines of words beside a point of the window. */
function showWords(lines, x, y) {
  const tooltip = document.getElementById("tooltip");
  tooltip.hidden = false;
  tooltip.replaceChildren(...lines.filter(Boolean).map((line) => element("div", {}, line)));
  const { width, height } = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tooltip.style.top = `${y + 18 + height <= innerHeight ? y + 18 : Math.max(4, y - height - 12)}px`;
}

function hideWords() {
  document.getElementById("tooltip").hidden = true;
}

const LONG_PARAGRAPH = 400;

/** Characters of code that stay on one line. */
const SHORT_CODE = 24;

/** Writes a paragraph in which what stands between backticks is code, and between asterisks is stressed. */
function paragraph(text) {
  const made = element("p");
  text.split(/(``.+?``|`[^`]+`|\*\w[^*]*\*)/s).forEach((part, i) => {
    if (i % 2 === 0) return made.append(part);
    const plain = part.replace(/^(``|`|\*)|(``|`|\*)$/g, "");
    const short = plain.length <= SHORT_CODE ? { class: "short" } : {};
    return made.append(part.startsWith("*") ? element("em", {}, plain) : element("code", short, plain));
  });
  return made;
}

/** Writes what the task is: the first paragraph and those on the oracle; the others are folded up. */
function showTask(words) {
  const said = words.split(/\n\n+/);
  const first = (text, i) => i === 0 || (text.includes("oracle") && text.length < LONG_PARAGRAPH);
  document.getElementById("task").append(...said.filter(first).map(paragraph));
  document.getElementById("task-more").append(...said.filter((text, i) => !first(text, i)).map(paragraph));
  document.getElementById("task-rest").hidden = said.every(first);
}
