// The pointer on a picture of a filter: it points, pins, drags a box to zoom into, and turns the wheel.

const LEAST_DRAG = 6;

/** Takes the focus from query and key, and the pin; a second call leaves the zoom. */
function leave() {
  hideWords();
  if (state.pinned || state.query !== null || state.key !== null) return update({ query: null, key: null, pinned: false });
  update({ zoom: null });
}

/** Lets a picture follow the pointer; `zooms` says whether a box can be dragged on it. */
function followPointer(holder, view, { zooms, tooltip, filterOf }) {
  let from = null;
  const at = ({ clientX, clientY }) => {
    const { left, top } = holder.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };
  const point = (event) => {
    const place = views[view].placeOf(...at(event));
    if (!state.pinned) update(place);
    const both = tooltip && place.query !== null && place.key !== null;
    if (both) showWords(cellLines(filterOf(), place), event.clientX, event.clientY);
    else hideWords();
    return place;
  };
  holder.addEventListener("pointermove", (event) => {
    if (from && zooms) views[view].showDrag(boxOf(from, at(event)));
    point(event);
  });
  holder.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    from = at(event);
    if (event.pointerType === "mouse") holder.setPointerCapture(event.pointerId);
  });
  holder.addEventListener("pointerup", (event) => {
    const box = from && zooms && boxOf(from, at(event));
    const started = from;
    from = null;
    if (!started) return;
    if (zooms) views[view].showDrag(null);
    if (box) zoomTo(view, box);
    else pin(point(event), filterOf());
  });
  holder.addEventListener("pointercancel", () => { from = null; });
  holder.addEventListener("pointerleave", () => {
    hideWords();
    if (!state.pinned) update({ query: null, key: null });
  });
  if (zooms) holder.addEventListener("wheel", (event) => turnWheel(event, holder, view, at(event)), { passive: false });
}

/** Keeps a query or key in focus until Escape; of a map, opens the row's first query too. */
function pin(place, filter) {
  if (place.query === null && place.key === null) return;
  update({ ...place, pinned: true });
  if (filter.pooled && place.query !== null) goToRow(filter.queries[place.query].first);
}

/** Returns the box between two points; nothing for one too small to be meant. */
function boxOf([x, y], [toX, toY]) {
  const [width, height] = [Math.abs(toX - x), Math.abs(toY - y)];
  if (Math.max(width, height) < LEAST_DRAG) return null;
  return { x: Math.min(x, toX), y: Math.min(y, toY), width, height };
}

/** Shows the rows and columns that a box touches. */
function zoomTo(view, { x, y, width, height }) {
  const { left, top, cell, rows, columns, first, from } = views[view].plan;
  const range = (start, size, count, offset) => {
    const low = Math.max(0, Math.min(count - 1, Math.floor(start / cell)));
    return [offset + low, offset + Math.max(low + 1, Math.min(count, Math.ceil((start + size) / cell)))];
  };
  update({ zoom: { rows: range(y - top, height, rows, first), columns: range(x - left, width, columns, from) } });
}

/** Zooms about the pointer: where a picture has the focus, or with Ctrl; elsewhere the wheel moves the page. */
function turnWheel(event, holder, view, [x, y]) {
  if (!event.ctrlKey && !holder.contains(document.activeElement)) return;
  if (event.deltaY > 0 && !state.zoom) return;
  event.preventDefault();
  const { left, top, cell, rows, columns, first, from } = views[view].plan;
  const filter = currentFilter();
  const factor = event.deltaY < 0 ? 0.8 : 1.25;
  const axis = (at, start, count, whole) => {
    const size = Math.max(2, Math.min(whole, Math.round(count * factor)));
    const part = Math.max(0, Math.min(1, at / (count * cell)));
    const low = Math.max(0, Math.min(whole - size, Math.round(start + part * (count - size))));
    return [low, low + size];
  };
  const zoom = {
    rows: axis(y - top, first, rows, filter.queries.length),
    columns: axis(x - left, from, columns, filter.keys.length),
  };
  const whole = zoom.rows[1] - zoom.rows[0] === filter.queries.length
    && zoom.columns[1] - zoom.columns[0] === filter.keys.length;
  update({ zoom: whole ? null : zoom });
}
