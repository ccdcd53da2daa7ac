"use strict";
for (const figure of document.querySelectorAll("figure.depth")) {
  const columns = [...figure.querySelectorAll(".over rect")];
  const says = columns.map((column) => {
    const title = column.querySelector("title");
    title.remove();
    return title.textContent;
  });
  const over = figure.querySelector(".over");
  const pick = figure.querySelector(".pick");
  const range = pick.querySelector("input");
  const read = pick.querySelector("output");
  let pinned = -1;
  const show = (at) => {
    columns.forEach((column, index) => column.classList.toggle("here", index === at));
    read.textContent = at < 0 ? figure.dataset.hint : says[at];
    if (at >= 0) range.value = at;
    for (const row of document.querySelectorAll("tr[data-column]"))
      row.classList.toggle("here", Number(row.dataset.column) === at);
  };
  const at = (event) => {
    const box = over.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns.length);
    return Math.min(Math.max(column, 0), columns.length - 1);
  };
  over.addEventListener("pointermove", (event) => show(at(event)));
  over.addEventListener("pointerleave", () => show(pinned));
  over.addEventListener("click", (event) => show((pinned = at(event))));
  range.addEventListener("input", () => show((pinned = Number(range.value))));
  figure.addEventListener("keydown", (event) => event.key === "Escape" && show((pinned = -1)));
  pick.hidden = false;
  show(-1);
}
