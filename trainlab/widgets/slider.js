// One slider: a native range input whose value, as it is read and said, is the quantity itself.

const style = `
.trainlab-slider { display: flex; align-items: center; gap: 8px; margin: 2px; min-height: 28px;
  font: 13px var(--jp-ui-font-family, sans-serif); color: var(--jp-content-font-color1, inherit); }
.trainlab-slider label { width: 9.5em; text-align: right; flex: none; }
.trainlab-slider input { flex: 1 1 90px; min-width: 70px; max-width: 190px; accent-color: var(--jp-brand-color1, #2b7bba); }
.trainlab-slider input:focus-visible { outline: 2px solid var(--jp-brand-color1, #2b7bba); outline-offset: 2px; }
.trainlab-slider output { width: 4.6em; flex: none; font-variant-numeric: tabular-nums; }
`;

function shown(values, place) {
  return values[Math.max(0, Math.min(values.length - 1, place))];
}

function render({ model, el }) {
  const id = `trainlab-slider-${Math.random().toString(36).slice(2)}`;
  const sheet = Object.assign(document.createElement("style"), { textContent: style });
  const row = Object.assign(document.createElement("div"), { className: "trainlab-slider" });
  const label = Object.assign(document.createElement("label"), { htmlFor: id });
  const input = Object.assign(document.createElement("input"), { type: "range", id, min: 0, step: 1 });
  const output = Object.assign(document.createElement("output"), { htmlFor: id });
  row.append(label, input, output);
  el.append(sheet, row);

  function say() {
    const text = shown(model.get("texts"), Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", `${text} ${model.get("unit")}`.trim());
  }
  function draw() {
    label.textContent = model.get("label");
    label.title = input.title = model.get("help");
    input.max = model.get("texts").length - 1;
    input.value = model.get("place");
    input.disabled = model.get("disabled");
    say();
  }
  input.addEventListener("input", () => {
    say();
    if (model.get("eager")) send();
  });
  input.addEventListener("change", send);
  function send() {
    if (model.get("place") === Number(input.value)) return;
    model.set("place", Number(input.value));
    model.save_changes();
  }
  model.on("change", draw);
  draw();
  return () => model.off("change", draw);
}

export default { render };
