// The page of a sweep: its tables, the first with links to the pages of the runs, and the curves of all runs.

const run = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
let shown = run.steps.at(-1);

function showTables() {
  byId("tables").replaceChildren(...run.tables.flatMap(({ title, header, rows }, number) => {
    const table = element("table");
    fillTable(table, header, rows.map((texts, index) => tableRow(texts, number === 0 && run.links[index])));
    const holder = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title || "The runs" });
    holder.append(table);
    return title ? [element("h3", {}, title), holder] : [holder];
  }));
}

function tableRow(texts, link) {
  const row = element("tr");
  row.append(...texts.map((text, column) => {
    const cell = element("td");
    const address = link && link.split("/").map(encodeURIComponent).join("/");
    cell.append(address && column === 0 ? element("a", { href: address }, text) : text);
    return cell;
  }));
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
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  draw();
});
byId("report").dataset.ready = "true";
