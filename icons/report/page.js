// Filters the samples and turns their pages. Without it all of them are shown.
"use strict";
(() => {
  const pageSize = 6;
  const form = document.getElementById("filter");
  const pager = document.getElementById("pager");
  const found = document.getElementById("found");
  const place = document.getElementById("place");
  const table = document.getElementById("samples");
  const rows = Array.from(table.tBodies[0].rows);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const previous = pager.querySelector("[name=previous]");
  const next = pager.querySelector("[name=next]");
  let matching = rows;
  let page = 0;

  function show() {
    const pages = Math.max(1, Math.ceil(matching.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = new Set(matching.slice(page * pageSize, (page + 1) * pageSize));
    for (const row of rows) row.hidden = !shown.has(row);
    const first = page * pageSize + 1;
    const last = first + shown.size - 1;
    found.textContent = matching.length
      ? `${first} to ${last} of ${matching.length} samples`
      : "No sample fits; take a filter away.";
    place.textContent = `${page + 1} of ${pages}`;
    // Not `disabled`, which would take the focus from who pages by keyboard.
    previous.setAttribute("aria-disabled", String(page === 0));
    next.setAttribute("aria-disabled", String(page === pages - 1));
    pager.hidden = pages === 1;
  }

  function filter() {
    const kind = form.elements.kind.value;
    const source = form.elements.source.value;
    const text = form.elements.text.value.trim().toLowerCase();
    matching = rows.filter(
      (row, number) =>
        (!kind || row.dataset.kinds.split(" ").includes(kind)) &&
        (!source || row.dataset.source === source) &&
        (!text || texts[number].includes(text)),
    );
    page = 0;
    show();
  }

  function turn(by) {
    const before = page;
    page += by;
    show();
    if (page !== before) document.getElementById("samples-title").scrollIntoView();
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  form.hidden = false;
  filter();
})();
