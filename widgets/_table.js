// Front end of ResultTable: sorts by a click on a heading, selects by a click (or Enter) on a row, ticks by boxes.
const STYLE = `
.wb-table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px;
  color: var(--jp-ui-font-color1, inherit); }
.wb-table th, .wb-table td { padding: 6px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--jp-border-color2, currentColor); }
.wb-table .left { text-align: left; }
.wb-table th { font-weight: 600; padding: 0; color: var(--jp-ui-font-color2, inherit); }
.wb-table th button { all: unset; cursor: pointer; padding: 6px 10px; }
.wb-table th button:focus-visible, .wb-table tbody tr:focus-visible
  { outline: 2px solid var(--jp-brand-color1, Highlight); outline-offset: -2px; }
.wb-table tbody tr { cursor: pointer; }
.wb-table tbody tr:hover { background: var(--jp-layout-color2, transparent); }
.wb-table tbody tr[aria-selected="true"] { box-shadow: inset 3px 0 0 var(--jp-brand-color1, Highlight);
  background: var(--jp-layout-color2, transparent); }
.wb-table .swatch { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
.wb-table tr.faded td { opacity: 0.45; }
.wb-table .mark { display: inline-block; width: 1.4em; text-align: center; }
.wb-table td span { white-space: nowrap; }
.wb-table .label { display: inline-block; margin-left: 8px; padding: 0 6px; border-radius: 3px; font-size: 11px;
  line-height: 16px; color: var(--jp-ui-font-color1, inherit); border: 1px solid var(--jp-warn-color1, #b26a00);
  background: color-mix(in srgb, var(--jp-warn-color1, #b26a00) 18%, transparent); }
.wb-table .tick { width: 1px; text-align: center; padding-right: 4px; }
.wb-table .tick label { display: block; padding: 6px 4px; margin: -6px -4px; cursor: pointer; }
.wb-table .tick input { margin: 0; vertical-align: middle; accent-color: var(--jp-brand-color1, auto); }
.wb-table th.tick { font-weight: 600; padding: 6px 4px 6px 10px; text-align: left; }
.wb-table td[style*="--wb-share"] { background: linear-gradient(color-mix(in srgb, var(--jp-warn-color1, #f57c00) 70%,
  var(--jp-layout-color1, white)) 0 0) right 10px bottom 3px / calc((100% - 20px) * var(--wb-share)) 3px no-repeat; }
.wb-scroll { overflow: auto; container-type: inline-size; }
.wb-scroll.limited thead th { position: sticky; top: 0; z-index: 1; background: var(--jp-layout-color1, Canvas);
  box-shadow: inset 0 -1px var(--jp-border-color2, currentColor); }
@container (max-width: 1000px) {
  .wb-table th:not(.left) button { white-space: normal; }
  .wb-table .label { display: block; width: max-content; margin: 2px 0 0 calc(1.4em + 18px); }
}
@container (max-width: 800px) {
  .wb-table th button, .wb-table td { padding: 5px 6px; }
  .wb-table td:not(.left) { white-space: normal; }
}`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function render({ model, el }) {
  const sort = { column: -1, down: false };
  const select = (name) => { model.set("selected", name); model.save_changes(); };

  function heading(text, index) {
    const active = sort.column === index;
    const button = make("button", { type: "button", textContent: text + (active ? (sort.down ? " ▾" : " ▴") : "") });
    button.addEventListener("click", () => {
      sort.down = active && !sort.down;
      sort.column = index;
      draw();
      el.querySelectorAll("th button")[index].focus();
    });
    const className = index < model.get("left") ? "left" : "";
    const cell = make("th", { scope: "col", className, title: model.get("notes")[index] ?? "" }, button);
    if (active) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    return cell;
  }

  function box(entry) {
    const input = make("input", { type: "checkbox", checked: model.get("ticked").includes(entry.name) });
    input.setAttribute("aria-label", `${model.get("tick")}: ${entry.name}`);
    input.addEventListener("change", () => {
      const others = model.get("ticked").filter((name) => name !== entry.name);
      model.set("ticked", input.checked ? [...others, entry.name] : others);
      model.save_changes();
    });
    const cell = make("td", { className: "tick" }, make("label", {}, input));
    cell.addEventListener("click", (event) => event.stopPropagation()); // a tick selects no row
    return cell;
  }

  function row(entry) {
    const cells = entry.cells.map((cell, index) => {
      const element = make("td", { title: cell.note, className: index < model.get("left") ? "left" : "" });
      if (index === 0 && entry.color) {
        const swatch = make("span", { className: "swatch" });
        swatch.style.background = entry.color;
        element.append(make("span", { className: "mark", textContent: entry.mark }), swatch);
      }
      // Where room is short, what stands in parentheses goes below.
      for (const part of cell.text.split(/ (?=\()/)) element.append(make("span", { textContent: part }), " ");
      if (index === 0 && entry.label) element.append(make("span", { className: "label", textContent: entry.label }));
      if (cell.share > 0) element.style.setProperty("--wb-share", Math.max(0.02, cell.share));
      return element;
    });
    const ticks = model.get("tick") ? [box(entry)] : [];
    const line = make("tr", { tabIndex: 0, className: entry.faded ? "faded" : "" }, ...ticks, ...cells);
    line.dataset.name = entry.name;
    line.setAttribute("aria-selected", String(entry.name === model.get("selected")));
    line.addEventListener("click", () => select(entry.name));
    line.addEventListener("keydown", (event) => {
      if (event.target !== line || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      select(entry.name);
    });
    return line;
  }

  function draw() {
    const rows = [...model.get("rows")];
    if (sort.column >= 0) {
      rows.sort((a, b) => compare(a.cells[sort.column].value, b.cells[sort.column].value) * (sort.down ? -1 : 1));
    }
    const corner = model.get("tick") ? [make("th", { scope: "col", className: "tick", textContent: model.get("tick") })] : [];
    const table = make("table", { className: "wb-table" },
      make("thead", {}, make("tr", {}, ...corner, ...model.get("headings").map(heading))),
      make("tbody", {}, ...rows.map(row)));
    table.setAttribute("aria-label", model.get("label"));
    const height = model.get("height");
    const scroll = make("div", { className: height ? "wb-scroll limited" : "wb-scroll" }, table);
    if (height) scroll.style.maxHeight = `${height}px`;
    el.replaceChildren(make("style", { textContent: STYLE }), scroll);
  }

  function mark() {
    for (const line of el.querySelectorAll("tbody tr")) {
      line.setAttribute("aria-selected", String(line.dataset.name === model.get("selected")));
      const input = line.querySelector(".tick input");
      if (input) input.checked = model.get("ticked").includes(line.dataset.name);
    }
  }

  function save({ download }, buffers) {
    if (!download) return;
    const address = URL.createObjectURL(new Blob([buffers[0]]));
    make("a", { href: address, download }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  draw();
  const listeners = { "change:rows change:headings": draw, "change:selected change:ticked": mark, "msg:custom": save };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  return () => { for (const [name, listener] of Object.entries(listeners)) model.off(name, listener); };
}

export default { render };
