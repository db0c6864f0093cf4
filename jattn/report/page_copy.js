// What is shown, as a picture or as numbers, into the clipboard; where that may not be, into a file.

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity",
  "font-family", "font-size", "font-weight", "text-decoration", "text-anchor"];

/** Returns a picture that stands alone: styles written into it, and the cells of its canvas as an image. */
function standalone(holder) {
  const svg = holder.querySelector("svg");
  const copy = svg.cloneNode(true);
  const [from, to] = [[svg, ...svg.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
  from.forEach((node, i) => {
    const style = getComputedStyle(node);
    to[i].removeAttribute("class");
    for (const name of STYLES) to[i].style.setProperty(name, style.getPropertyValue(name));
    if (node.classList.contains("off")) to[i].style.setProperty("display", "none");
  });
  // A hatch is a reference to a pattern, which a computed style may write with the address of the page.
  copy.querySelectorAll("[fill^='url']").forEach((node) => node.style.removeProperty("fill"));
  const paper = getComputedStyle(document.body).backgroundColor;
  copy.prepend(shape("rect", { width: "100%", height: "100%", fill: paper }));
  const canvas = holder.querySelector("canvas");
  if (canvas) {
    const { left, top, width, height } = canvas.style;
    const place = { x: parseFloat(left), y: parseFloat(top), width: parseFloat(width), height: parseFloat(height) };
    const image = shape("image", { ...place, preserveAspectRatio: "none", href: canvas.toDataURL() });
    image.style.setProperty("image-rendering", "pixelated");
    copy.firstChild.after(image);
  }
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.removeAttribute("tabindex");
  return { text: new XMLSerializer().serializeToString(copy), width: svg.clientWidth, height: svg.clientHeight };
}

/** Draws a picture that stands alone at twice its size; returns a PNG file. */
async function asPng({ text, width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = element("canvas");
  Object.assign(canvas, { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Returns what is shown of a filter as CSV: a row for each query, a column for each key; masked cells are empty. */
function asCsv(filter, zoom) {
  const { rows: [first, end], columns: [from, to] } = viewOf(filter, zoom);
  // A spreadsheet takes what begins with one of these for a formula.
  const quote = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  const named = (side, i) => quote(filter.pooled ? binText(filter[side][i]) : `${i} ${filter[side][i]}`);
  const range = (start, stop) => Array.from({ length: stop - start }, (_, i) => start + i);
  const number = (query, key) => {
    if (!filter.visible(query, key)) return "";
    const level = filter.level(query, key);
    if (level > TOP_LEVEL) return "nan";
    return Number(((level / TOP_LEVEL) ** (filter.pooled ? 2 : 1)).toPrecision(3));
  };
  const head = ['"query \\ key"', ...range(from, to).map((key) => named("keys", key))];
  const body = range(first, end).map((query) => (
    [named("queries", query), ...range(from, to).map((key) => number(query, key))]
  ));
  return [head, ...body].map((line) => line.join(",")).join("\n") + "\n";
}

/** Puts a text or a file into the clipboard, else into a file of the given name; says which. */
async function give(content, name, type) {
  const file = content instanceof Blob ? content : new Blob([content], { type });
  try {
    if (content instanceof Blob) await navigator.clipboard.write([new ClipboardItem({ [type]: content })]);
    else await navigator.clipboard.writeText(content);
    return "copied";
  } catch {
    const link = element("a", { href: URL.createObjectURL(file), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    return `saved as ${name}`;
  }
}
