// Pictures: the filter of a patch, or of a token before the patches, drawn over the pixels.

// The picture is grey and light, so that all colour is that of the weights.
const CONTRAST = 0.4, OPAQUE = 0.9;
const grey = document.createElement("canvas");

function readPicture() {
  const source = new Image();
  source.addEventListener("load", () => {
    grey.width = source.naturalWidth;
    grey.height = source.naturalHeight;
    const context = grey.getContext("2d");
    context.drawImage(source, 0, 0);
    const found = context.getImageData(0, 0, grey.width, grey.height), { data: parts } = found;
    for (let at = 0; at < parts.length; at += 4) {
      const light = 0.3 * parts[at] + 0.59 * parts[at + 1] + 0.11 * parts[at + 2];
      parts.fill(255 * (1 - CONTRAST) + CONTRAST * light, at, at + 3);
    }
    context.putImageData(found, 0, 0);
    byId("picture").dataset.ready = "yes";
    drawPicture();
  });
  source.src = picture.source;
}

const patchCount = picture ? picture.rows * picture.columns : 0;

// The weights between a token and each patch, as the page is asked to see them; the first is the largest.
function patchWeights(layer, head, query) {
  const found = [];
  for (let patch = 0; patch < patchCount; patch++) {
    const place = picture.lead + patch;
    found.push(state.way === "looks" ? texts[0].weight(layer, head, query, place) : texts[0].weight(layer, head, place, query));
  }
  return [Math.max(1e-9, ...found.filter((weight) => !isNaN(weight))), found];
}

function paintPatches(canvas, layer, head) {
  const [most, found] = patchWeights(layer, head, state.query ?? 0);
  paintCells(canvas, picture.rows, picture.columns, (row, column) => {
    const weight = found[row * picture.columns + column];
    return isNaN(weight) ? NO_NUMBER.pixel : pixels[Math.round(Math.sqrt(weight / most) * TOP)];
  });
}

// Where a row of blocks begins, or a column, as a part of the picture: the last may cover fewer patches.
const edge = (index, all) => Math.min(index * picture.block, all) / all;

function patchBox(patch) {
  const row = Math.floor(patch / picture.columns), column = patch % picture.columns;
  const [left, right] = [column, column + 1].map((index) => edge(index, picture.all_columns) * grey.width);
  const [top, bottom] = [row, row + 1].map((index) => edge(index, picture.all_rows) * grey.height);
  return [left, top, right - left, bottom - top];
}

function drawPicture() {
  if (!picture || !grey.width) return;
  const canvas = byId("image"), context = canvas.getContext("2d");
  canvas.width = grey.width;
  canvas.height = grey.height;
  context.drawImage(grey, 0, 0);
  const { layer, head } = state, query = state.query ?? 0, [most, found] = patchWeights(layer, head, query);
  const accent = accents[TOP].join(" ");
  found.forEach((weight, patch) => {
    context.fillStyle = `rgb(${accent} / ${(OPAQUE * Math.sqrt((weight || 0) / most)).toFixed(3)})`;
    context.fillRect(...patchBox(patch));
  });
  if (query >= picture.lead) {
    context.strokeStyle = "#000";
    context.lineWidth = Math.max(2, canvas.width / picture.columns / 8);
    context.strokeRect(...patchBox(query - picture.lead));
  }
  const word = `“${texts[0].shown(query)}”`, inside = found.reduce((sum, weight) => sum + (weight || 0), 0);
  byId("scale").textContent = state.way === "looks"
    ? `${word} puts ${figure(inside)} of its weight on the patches, ${most.toFixed(3)} on the most coloured one.`
    : `What looks at ${word}: the most coloured patch puts ${most.toFixed(3)} of its weight there.`;
}

function patchAt(event) {
  const box = byId("image").getBoundingClientRect();
  const place = (part, all) => Math.floor(Math.min(all - 1, Math.max(0, Math.floor(part * all))) / picture.block);
  const row = place((event.clientY - box.top) / box.height, picture.all_rows);
  return picture.lead + row * picture.columns + place((event.clientX - box.left) / box.width, picture.all_columns);
}

function buildPicture() {
  if (!picture) return;
  byId("map").before(byId("picture"));
  byId("columns").classList.add("of-picture");
  byId("text-title").textContent = "Picture";
  byId("hint").textContent = "Point at a patch, or at a token before the patches, to see its weights in the chosen head. " +
    "Patches are called by row and column. A click keeps it, Escape lets go. Arrow keys choose the head.";
  byId("grid-note").textContent = "A row per layer, a column per head. Each shows the weights of the chosen token on the " +
    "patches, in full colour where the head puts most. The word says what the head mostly does on this picture; " +
    "choose a word to pick out its heads.";
  byId("picture-view").hidden = false;
  byId("lines-view").hidden = true;
  byId("picture-view").firstElementChild.checked = true;
  byId("image").addEventListener("mousemove", (event) => {
    const query = patchAt(event);
    if (!state.kept && query !== state.query) update({ query });
  });
  byId("image").addEventListener("click", (event) => update({ query: patchAt(event), key: null, kept: !state.kept }));
  // The room that the picture takes, before it is read.
  [byId("image").height, byId("image").width] = picture.size;
  readPicture();
}
