// Keys that work wherever the focus is.

const KEYS = {
  " ": () => togglePlay(),
  ArrowLeft: () => goTo(state.snapshot - 1),
  ArrowRight: () => goTo(state.snapshot + 1),
  ArrowUp: () => walk(-1),
  ArrowDown: () => walk(1),
  "[": () => walkHeads(-1),
  "]": () => walkHeads(1),
  "?": () => byId("keys").showModal(),
  Escape: () => leave(),
};

let lastWasPointer = true;

/** Says whether an element needs a key for itself, which it does if the keyboard has led there. */
function needsKey(target, key) {
  const kind = target.closest("input, button, summary, a, pre, .scroll");
  if (lastWasPointer || !kind) return false;
  if (kind.matches(".scroll, pre")) return key.startsWith("Arrow");
  if (kind.matches("input[type='range']:not(#step)")) return key.startsWith("Arrow");
  return key === " " && !kind.matches("#play, input[type='range'], input[type='number']");
}

function answerKey(event) {
  const action = KEYS[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  if (needsKey(event.target, event.key)) return;
  event.preventDefault();
  action();
}

/** Listens before any element does, and keeps a space that was answered from pressing a button when it is let go. */
function listenToKeys() {
  document.addEventListener("pointerdown", () => { lastWasPointer = true; }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab") lastWasPointer = false;
    answerKey(event);
  }, true);
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && !needsKey(event.target, " ") && !byId("keys").open) event.preventDefault();
  }, true);
  byId("show-keys").addEventListener("click", () => byId("keys").showModal());
}
