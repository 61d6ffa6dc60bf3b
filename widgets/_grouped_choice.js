// Front end of GroupedChoice: a select with groups, in the look of ipywidgets' own.
let count = 0;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const id = `wb-choice-${++count}`;
  const label = make("label", { className: "widget-label", htmlFor: id });
  const select = make("select", { id });
  const root = make("div", { className: "jupyter-widgets widget-inline-hbox widget-dropdown wb-choice" }, label, select);
  el.append(root);

  function draw() {
    label.textContent = model.get("description");
    select.replaceChildren(...model.get("groups").map(({ label: name, options }) =>
      make("optgroup", { label: name }, ...options.map(({ value, label: text, note, disabled }) =>
        make("option", { value, textContent: text, title: note, disabled })))));
    select.value = model.get("value");
    select.title = select.selectedOptions[0]?.title ?? "";
  }

  select.addEventListener("change", () => {
    model.set("value", select.value);
    model.save_changes();
  });
  draw();
  model.on("change:value change:groups change:description", draw);
  return () => model.off("change:value change:groups change:description", draw);
}

export default { render };
