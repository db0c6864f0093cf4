// The page of a sweep: its tables, the first with links to the pages of the runs, and the curves of all runs.

const run = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
let shown = run.steps.at(-1);

function showTables() {
  byId("tables").replaceChildren(...run.tables.flatMap(({ title, header, rows }, number) => {
    const table = element("table");
    fillTable(table, header, rows.map((texts, index) => number === 0 ? linkedRow(texts, run.links[index]) : tableRow(texts)));
    const holder = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title || "The runs" });
    holder.append(table);
    return title ? [element("h3", {}, title), holder] : [holder];
  }));
}

function tableRow(texts) {
  const row = element("tr");
  row.append(...texts.map((text) => element("td", {}, text)));
  return row;
}

/** Makes a row in which what sets the run apart from others leads to its page, if it has one. */
function linkedRow(texts, { address, label }) {
  const row = tableRow(texts);
  if (!address) return row;
  const href = address.split("/").map(encodeURIComponent).join("/");
  [...row.cells].slice(0, run.swept).forEach((cell) => {
    cell.replaceChildren(element("a", { href, "aria-label": `${label}: its page` }, cell.textContent));
  });
  return row;
}

function draw() {
  const curves = drawCurves(byId("curves"), {}, (step) => {
    shown = Math.max(0, Math.round(step));
    curves.markStep(shown);
  });
  curves.markStep(shown);
}

if (run.task) showTask(run.task);
document.querySelector(".task").hidden = !run.task;
byId("result").append(...explained(run.result));
for (const name of ["title", "note"]) byId(name).textContent = run[name];
showTables();
draw();
drawForPaper(draw);
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  draw();
});
byId("report").dataset.ready = "true";
