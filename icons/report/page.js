// Filters the samples and turns their pages, finds any row by its number, opens pictures large. Without it all are shown.
"use strict";
(() => {
  const pageSize = 6;
  const form = document.getElementById("filter");
  const pager = document.getElementById("pager");
  const found = document.getElementById("found");
  const about = document.getElementById("row");
  const place = document.getElementById("place");
  const table = document.getElementById("samples");
  const rows = Array.from(table.tBodies[0].rows);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const previous = pager.querySelector("[name=previous]");
  const next = pager.querySelector("[name=next]");
  const count = Number(about.dataset.count);
  const written = (number) => number.toLocaleString("en-US");
  let matching = rows;
  let page = 0;

  function show() {
    const pages = Math.max(1, Math.ceil(matching.length / pageSize));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = new Set(matching.slice(page * pageSize, (page + 1) * pageSize));
    for (const row of rows) row.hidden = !shown.has(row);
    const first = page * pageSize + 1;
    const last = first + shown.size - 1;
    const here = `${rows.length} shown here; the data have ${written(count)} rows`;
    const fit = matching.length < rows.length ? `${matching.length} that fit, of the ${here}` : `the ${here}`;
    const which = matching.length > 1 ? `${first} to ${last} of ${fit}` : `1 that fits, of the ${here}`;
    found.textContent = matching.length ? `${which}.` : `None of the ${here}. Take a filter away.`;
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
    const number = numberIn(text);
    const own = rows.find((row) => number !== null && Number(row.dataset.row) === number);
    matching = rows.filter(
      (row, at) =>
        (!kind || row.dataset.kinds.split(" ").includes(kind)) &&
        (!source || row.dataset.source === source) &&
        (!text || (own ? row === own : texts[at].includes(text))),
    );
    page = 0;
    show();
    tell(number, own !== undefined && matching.includes(own));
  }

  // "1234", "1,234" and "row 1234" are numbers of rows.
  function numberIn(text) {
    const match = /^(?:row\s*)?(\d+|\d{1,3}(?:,\d{3})+)$/.exec(text);
    return match ? Number(match[1].replaceAll(",", "")) : null;
  }

  // Three bytes a row, one after the other for all rows: selections that have it, votes, place in the ranking.
  let unpacked = null;
  function unpack() {
    const packed = document.getElementById("rows");
    if (!packed || typeof DecompressionStream === "undefined") return Promise.resolve(null);
    const bytes = Uint8Array.from(atob(packed.content.textContent), (letter) => letter.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(plain).arrayBuffer().then((buffer) => new Uint8Array(buffer), () => null);
  }

  let asked = 0;
  async function tell(number, isShown) {
    const turn = ++asked;
    if (number === null) return about.replaceChildren();
    if (number >= count) return say(`No row ${written(number)}: the data have rows 0 to ${written(count - 1)}.`);
    unpacked ??= unpack();
    const bytes = await unpacked;
    if (turn !== asked) return;
    const where = isShown ? "It is shown below." : "It is not among the samples shown here.";
    const command = `${about.dataset.inspect} ${number}`;
    say(`Row ${written(number)}${bytes ? `: ${inWords(bytes, number)}` : ""}. ${where}`, command);
  }

  function inWords(bytes, number) {
    const votes = bytes[count + number];
    if (votes === 255) return "invalid, so it has no vote and is never selected";
    const names = JSON.parse(about.dataset.selections);
    const chosen = names.filter((name, bit) => (bytes[number] >> bit) & 1);
    const left = names.filter((name) => !chosen.includes(name));
    const parts = [];
    if (chosen.length) parts.push(`selected by ${chosen.join(", ")}`);
    if (left.length) parts.push(`not selected by ${left.join(", ")}`);
    const step = bytes[2 * count + number];
    const ranked = step ? `, in the first ${step / 2}% of the ranking of ${names[0]}` : "";
    return `${parts.join("; ")}; ${votes === 254 ? "254 or more" : votes} of ${about.dataset.tasks} votes${ranked}`;
  }

  function say(text, command) {
    const line = document.createElement("p");
    line.textContent = text;
    about.replaceChildren(line);
    if (!command) return;
    const how = document.createElement("p");
    const code = document.createElement("code");
    how.className = "small";
    code.textContent = command;
    how.append("Its text, scores, and why it is in or out: ", code);
    about.append(how);
  }

  function turn(by) {
    const before = page;
    page += by;
    show();
    if (page !== before) document.getElementById("samples-title").scrollIntoView();
  }

  const large = document.getElementById("large");
  const picture = large.querySelector("img");
  for (const image of table.querySelectorAll("img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "open";
    button.title = `${image.title}: open large`;
    button.setAttribute("aria-haspopup", "dialog");
    image.replaceWith(button);
    button.append(image);
    image.alt = `Open large: ${image.alt}`;
    button.addEventListener("click", () => {
      picture.setAttribute("src", image.getAttribute("src"));
      picture.alt = image.title;
      picture.className = image.naturalWidth < 200 ? "tiny" : "";
      const size = `${image.naturalWidth} × ${image.naturalHeight}`;
      const shown = image.title.endsWith(size) ? "" : `, here as ${size}`;
      document.getElementById("large-name").textContent = `Row ${written(Number(image.dataset.row))}: ${image.title}${shown}`;
      large.showModal();
    });
  }
  large.querySelector("button").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => {
    if (event.target === large) large.close(); // beside the frame
  });

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  form.hidden = false;
  filter();
})();
