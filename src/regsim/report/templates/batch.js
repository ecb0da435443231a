// Sorts the table of pairs by a click on a column's name; a second click turns the order. No library, no network.
(() => {
  "use strict";
  const table = document.getElementById("pairs");
  if (!table) return;
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    if (text === "") return null;
    return row.cells[column].dataset.sort === undefined ? text : Number(text);
  };
  const order = (first, second) =>
    typeof first === "number" ? first - second : first.localeCompare(second, undefined, { numeric: true });
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
      const known = rows.filter(([key]) => key !== null);
      known.sort(([first], [second]) => (down ? -1 : 1) * order(first, second));
      // What is not known stays last, whichever way.
      body.append(...known.map(([, row]) => row), ...rows.filter(([key]) => key === null).map(([, row]) => row));
    });
  }
})();
