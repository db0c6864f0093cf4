// The curves of the run, with the step that is shown.

const EDGE = { left: 44, right: 20, top: 8, bottom: 22, height: 190 };
const DASH = 9;
const DASHINGS = 4;

/** Draws every panel into its holder; goTo(step) is called when one is clicked or dragged over. Returns markStep. */
function drawCurves(holder, chosen, goTo) {
  const curveSteps = run.panels.flatMap((panel) => panel.curves.flatMap((curve) => curve.steps));
  const lastStep = [...run.steps, ...curveSteps].reduce((most, step) => Math.max(most, step), 1);
  // All figures stand before any is measured: how wide one is depends on how many there are.
  while (holder.children.length < run.panels.length) holder.append(element("figure"));
  const marks = run.panels.map((panel, index) => {
    const figure = holder.children[index];
    const entries = element("div", { class: "entries" });
    const title = element("h3");
    title.append(...explained(panel.title));
    figure.replaceChildren(title);
    if (!panel.curves.length) {
      figure.append(element("p", { class: "note" }, "nothing logged yet"));
      return () => {};
    }
    const { svg, mark } = drawPanel(panel, figure.clientWidth, lastStep, chosen, goTo);
    figure.append(svg, entries);
    return (step) => {
      mark(step);
      entries.replaceChildren(...named(panel.curves, chosen).map((curve) => legendEntry(curve, step, apart(panel.curves, panel.curves.indexOf(curve)))));
    };
  });
  return { markStep: (step) => marks.forEach((mark) => mark(step)) };
}

/** Returns the curves that the legend names: of the faint ones, only that of the chosen head. */
function named(curves, chosen) {
  return curves.filter((curve) => curve.colour !== "faint" || isOf(curve, chosen));
}

function isOf(curve, chosen) {
  return curve.layer === chosen.layer && curve.head === chosen.head;
}

function drawPanel(panel, width, lastStep, chosen, goTo) {
  const words = `${panel.title}, over training steps`;
  const svg = shape("svg", { width, height: EDGE.height, role: "img", "aria-label": words });
  const x = (step) => EDGE.left + (step / lastStep) * (width - EDGE.left - EDGE.right);
  const { y, ticks } = verticalScale(panel);
  for (const tick of ticks) {
    svg.append(shape("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }));
    svg.append(shape("text", { x: EDGE.left - 7, y: y(tick) + 4, "text-anchor": "end" }, numberText(tick)));
  }
  for (const tick of roundTicks(0, lastStep, width / 110)) {
    svg.append(shape("text", { x: x(tick), y: EDGE.height - 5, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  panel.curves.forEach((curve, i) => svg.append(...drawCurve(curve, x, y, chosen, apart(panel.curves, i))));
  const now = svg.appendChild(shape("line", { class: "now", y1: EDGE.top, y2: EDGE.height - EDGE.bottom }));
  const follow = (event) => {
    const at = (event.clientX - svg.getBoundingClientRect().left - EDGE.left) / (width - EDGE.left - EDGE.right);
    goTo(at * lastStep);
  };
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointermove", (event) => event.buttons && follow(event));
  return { svg, mark: (step) => fill(now, { x1: x(step), x2: x(step) }) };
}

/**
 * Returns how one of several curves of the same kind is drawn, so that none hides another where they coincide: each has
 * longer gaps than those below it; after a few they begin anew, thinner.
 */
function apart(curves, index) {
  if (curves.length < 2 || !curves.every(({ colour }) => colour.startsWith("head-"))) return {};
  const [count, later] = [Math.min(curves.length, DASHINGS), Math.floor((curves.length - 1 - index) / DASHINGS)];
  const gap = DASH * (index % count);
  const width = { "stroke-width": `${Math.min(2 + 2 * later, 6)}px` };
  return gap ? { ...width, "stroke-dasharray": `${DASH * count - gap} ${gap}` } : width;
}

/** Draws one curve: dots, or a line that is broken where no number was logged. */
function drawCurve(curve, x, y, chosen, look) {
  const points = curve.steps.map((step, i) => [x(step), curve.values[i] === null ? null : y(curve.values[i])]);
  const colour = `var(--${curve.colour})`;
  const known = points.filter(([, height]) => height !== null);
  // A line through one point is nothing to see.
  if (curve.dots || known.length === 1) return known.map(([cx, cy]) => shape("circle", { cx, cy, r: 2.6, fill: colour }));
  const path = points.map(([px, py], i) => {
    if (py === null) return "";
    return `${i && points[i - 1][1] !== null ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
  }).join("");
  const rank = curve.colour === "faint" ? (isOf(curve, chosen) ? "chosen" : "faint") : "";
  const kind = curve.dashed ? "dashed" : rank;
  const line = shape("path", { class: `curve ${kind}`, d: path, stroke: rank === "chosen" ? "var(--blue)" : colour });
  for (const [name, value] of Object.entries(look)) line.style.setProperty(name, value);
  return [line];
}

/** Returns the vertical scale of a panel, as a function from value to height, and its ticks. */
function verticalScale(panel) {
  const values = panel.curves.flatMap((curve) => curve.values).filter((value) => value !== null);
  const [least, most] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const floor = EDGE.height - EDGE.bottom;
  const stretch = (part) => floor - part * (floor - EDGE.top);
  if (panel.scale === "log") {
    const low = Math.floor(Math.log10(least) * 2) / 2;
    const high = Math.max(Math.log10(most), low + 0.5);
    const powers = Array.from({ length: 40 }, (_, i) => i - 25).filter((power) => power >= low && power <= high);
    const ticks = powers.length > 1 ? powers.map((power) => 10 ** power) : [10 ** low, 10 ** high];
    return { y: (value) => stretch((Math.log10(value) - low) / (high - low)), ticks };
  }
  const top = panel.top ?? (most || 1);
  return { y: (value) => stretch(value / (1.04 * top)), ticks: roundTicks(0, top, 4) };
}

/** Returns about `count` round numbers from low to high. */
function roundTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const gap = unit * [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= rough);
  return Array.from({ length: Math.floor((high - low) / gap + 1e-9) + 1 }, (_, i) => low + i * gap);
}

function numberText(value) {
  const plain = value === 0 || (value >= 0.001 && value < 100_000);
  return plain ? String(Number(value.toPrecision(3))) : value.toExponential(0);
}

function legendEntry(curve, step, look) {
  const entry = element("span");
  const colour = curve.colour === "faint" ? "var(--blue)" : `var(--${curve.colour})`;
  const dashed = curve.dashed || "stroke-dasharray" in look;
  const sign = entry.appendChild(element("i", curve.dots ? { class: "dots" } : dashed ? { class: "dashes" } : {}));
  sign.style[curve.dots ? "background" : "borderColor"] = colour;
  const past = curve.values.filter((value, i) => curve.steps[i] <= step && value !== null);
  const label = curve.colour === "faint" ? `${curve.layer}, head ${curve.head}` : curve.label;
  const number = past.length ? String(Number(past.at(-1).toPrecision(3))) : "–";
  entry.append(...explained(label), " ", element("b", {}, number));
  return entry;
}
