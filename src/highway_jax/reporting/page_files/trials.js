// The filter of all charts, and the table of trials.

function toolbar(place) {
  const label = add(place, "label", { className: "filter" }, "filter");
  const filter = add(label, "input", {
    type: "search", name: "filter", value: State.get("q"), placeholder: "depth=100 block=plain learning_rate<0.01",
  });
  filter.setAttribute("list", "columns");
  const names = add(place, "datalist", { id: "columns" });
  TRIALS.columns.forEach((column) => add(names, "option", { value: `${column.name}=` }));
  const count = add(place, "span", { className: "count" });
  const clear = add(place, "button", { type: "button", textContent: "clear selection" });
  const error = add(place, "span", { className: "error", role: "alert" });
  filter.addEventListener("input", () => { State.set("q", filter.value); update(); });
  clear.addEventListener("click", () => { State.set("sel", ""); update(); });
  onUpdate(() => {
    if (filter.value !== State.get("q")) filter.value = State.get("q");
    const { errors } = parseFilter(filter.value);
    filter.ariaInvalid = String(errors.length > 0);
    error.textContent = errors.join("; ");
    const number = selected().size;
    count.textContent = `${shownTrials().length} of ${TRIALS.rows.length} trials${number ? `, ${number} selected` : ""}`;
    clear.hidden = number === 0;
  });
}

KINDS.trials = (place) => {
  const standard = TRIALS.columns
    .filter((c) => c.name === "trial" || (c.varied && (c.role !== "record" || ["status", "seed", "epochs"].includes(c.name))))
    .map((c) => c.name);
  const shown = () => {
    const chosen = State.get("cols", null)?.split("~") ?? standard;
    const names = TRIALS.columns.map((c) => c.name).filter((name) => name === "trial" || chosen.includes(name));
    // A narrow screen has results beside the trial, accuracies first, and settings behind them.
    const rank = (name) => (name === "trial" ? 0 : /^(valid|test)_accuracy$/.test(name) ? 1 : TRIALS.columns[COLUMN[name]].role === "metric" ? 2 : 3);
    return innerWidth > 700 ? names : names.sort((a, b) => rank(a) - rank(b));
  };
  const same = TRIALS.columns.filter((c) => !c.varied && c.role !== "metric")
    .map((c) => `${c.name} ${text(TRIALS.rows[0][COLUMN[c.name]])}`);
  const controls = add(place, "div", { className: "controls" });
  const chooser = add(controls, "details", { className: "chooser" });
  add(chooser, "summary", { textContent: "columns" });
  const boxes = add(chooser, "div");
  for (const { name } of TRIALS.columns.slice(1)) {
    checkbox(boxes, name, shown().includes(name), (checked) => {
      const names = shown().filter((other) => other !== name).concat(checked ? [name] : []);
      const ordered = TRIALS.columns.map((c) => c.name).filter((other) => names.includes(other));
      State.set("cols", ordered.join("~"), standard.join("~"));
    });
  }
  const download = add(controls, "button", { type: "button", textContent: "Download CSV" });
  add(controls, "span", { className: "note", textContent: "Select a row to highlight the trial in all charts." });
  const wide = add(place, "div", { className: "wide trials", tabIndex: 0 });
  const table = add(wide, "table");
  const head = add(add(table, "thead"), "tr");
  const body = add(table, "tbody");
  if (same.length) add(place, "p", { className: "note", textContent: `The same for all: ${same.join(", ")}.` });

  const sorting = () => {
    const key = State.get("sort");
    const name = key.replace(/^-/, "");
    return name in COLUMN ? { name, sign: key.startsWith("-") ? -1 : 1 } : null;
  };
  const sorted = () => {
    const by = sorting();
    const trials = shownTrials();
    if (by === null) return trials;
    // Trials without a value come last in either order.
    return trials.sort((a, b) => {
      const [left, right] = [cell(a, by.name), cell(b, by.name)];
      if (left === right) return a - b;
      if (left === null || right === null) return left === null ? 1 : -1;
      return by.sign * (left < right ? -1 : 1);
    });
  };
  const quote = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  download.addEventListener("click", () => {
    const names = shown();
    const lines = [names, ...sorted().map((trial) => names.map((name) => text(cell(trial, name))))];
    const blob = new Blob([lines.map((line) => line.map(quote).join(",")).join("\n") + "\n"], { type: "text/csv" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "trials.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  onUpdate(() => {
    const names = shown();
    const by = sorting();
    const chosen = selected();
    head.replaceChildren(...names.map((name) => {
      const title = document.createElement("th");
      const column = TRIALS.columns[COLUMN[name]];
      title.className = column.number ? "number" : "";
      title.ariaSort = by?.name === name ? (by.sign > 0 ? "ascending" : "descending") : "none";
      const arrow = by?.name === name ? (by.sign > 0 ? " ▲" : " ▼") : "";
      add(title, "button", { type: "button", textContent: name + arrow }).addEventListener("click", () => {
        State.set("sort", by?.name === name && by.sign > 0 ? `-${name}` : name);
        update();
      });
      return title;
    }));
    body.replaceChildren(...sorted().map((trial) => {
      const line = document.createElement("tr");
      line.dataset.trial = trial;
      line.ariaSelected = String(chosen.has(trial));
      names.forEach((name, i) => {
        const value = cell(trial, name);
        const item = add(line, "td", { className: TRIALS.columns[COLUMN[name]].number ? "number" : "" });
        if (i === 0) {
          add(item, "input", { type: "checkbox", checked: chosen.has(trial), ariaLabel: `select ${TRIALS.names[trial]}` });
        }
        item.append(name === "status" ? badge(value) : text(value));
      });
      return line;
    }));
  });
  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line && !String(getSelection())) toggle(Number(line.dataset.trial));
  });
};

function badge(status) {
  return Object.assign(document.createElement("span"), { className: `badge ${status}`, textContent: status });
}
