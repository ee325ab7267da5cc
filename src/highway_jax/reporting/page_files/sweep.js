// Settings against results: parallel coordinates, scatter, heat map, importance, rungs of halving.

const MAX_LEVELS = 20;

KINDS.sweep = (place) => {
  const settings = settingsThatDiffer();
  const metrics = columnsOf("metric").map((column) => column.name);
  if (!metrics.length) return add(place, "p", { className: "note", textContent: "No trial has a result yet." });
  const best = ["valid_accuracy", "train_loss"].find((name) => metrics.includes(name)) ?? metrics[0];
  const controls = add(place, "div", { className: "controls" });
  const metric = choice(controls, "result", metrics, "metric", best);
  parallel(panel(place, "Parallel coordinates", "Drag along an axis to filter all charts; click on a line to select its trial."), settings, metric);
  const levels = (name) => valuesOf(name).size;
  const first = settings.reduce((a, b) => (levels(b) > levels(a) ? b : a));
  const grid = namesLast(settings.filter((name) => levels(name) <= MAX_LEVELS));
  inRow(place, [
    ["One setting", (own) => scatter(own, settings, metric, first)],
    grid.length > 1 && ["Two settings", (own) => heatMap(own, grid, metric)],
  ]);
  for (const search of TRIALS.searches) {
    const suffix = TRIALS.searches.length > 1 ? `: ${search.run}` : "";
    inRow(place, [
      search.importance && [`Importance of settings${suffix}`, (own) => importance(own, search.importance)],
      search.rungs.length && [`Successive halving${suffix}`, (own) => rungs(own, search)],
    ]);
  }
};

// All panels are there before the first is drawn, so that each is drawn in its final width.
function inRow(place, charts) {
  const row = add(place, "div", { className: "plots" });
  const made = charts.filter(Boolean).map(([title, chart]) => [panel(row, title), chart]);
  made.forEach(([own, chart]) => chart(own));
}

function panel(place, title, note = "") {
  const section = add(place, "div", { className: "panel" });
  add(section, "h3", { textContent: title });
  if (note) add(section, "p", { className: "note", textContent: note });
  return section;
}

// ---- Axes of parallel coordinates

function isWide(values) {
  const positive = values.filter((value) => value > 0);
  return positive.length === values.length && Math.max(...values) / Math.min(...values) > 50;
}

// Returns how values of a column are placed from 0 to 1, and back, and its ticks.
function scaleOf(name) {
  const values = TRIALS.rows.map((_, trial) => cell(trial, name)).filter((value) => value !== null);
  const levels = [...new Set(values)].sort((a, b) => (a < b ? -1 : 1));
  if (!TRIALS.columns[COLUMN[name]].number || levels.length <= 6) {
    const at = (value) => (levels.length > 1 ? levels.indexOf(value) / (levels.length - 1) : 0.5);
    const words = tickTexts(levels);
    return { name, at, ticks: levels.map((level, i) => [at(level), words[i]]), levels };
  }
  const log = isWide(values);
  const [to, from] = log ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
  const [low, high] = [Math.min(...values), Math.max(...values)].map(to);
  const at = (value) => (to(value) - low) / (high - low);
  const back = (share) => Number(from(low + share * (high - low)).toPrecision(4));
  const shares = [0, 0.25, 0.5, 0.75, 1];
  const texts = (digits) => shares.map((share) => short(back(share), digits));
  const words = [2, 3, 4].map(texts).find((list) => new Set(list).size === list.length) ?? texts(5);
  return { name, at, back, ticks: shares.map((share, i) => [share, words[i]]) };
}

const SVG = "http://www.w3.org/2000/svg";

function shape(parent, tag, attributes, words = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = words;
  parent.append(element);
  return element;
}

function parallel(place, settings, metric) {
  const frame = add(place, "div", { className: "parallel" });
  const hint = add(place, "p", { className: "hint", ariaLive: "polite" });
  const scales = new Map();
  const scale = (name) => scales.get(name) ?? scales.set(name, scaleOf(name)).get(name);
  const redraw = () => {
    // An axis that is dragged along stays: its end draws all again.
    if (frame.querySelector(".dragged")) return;
    const names = [...settings, metric.value];
    const axes = names.map(scale);
    const upright = frame.clientWidth >= 90 * names.length;
    const gap = upright ? frame.clientWidth / names.length : 72;
    // One axis for each name: upright ones side by side, or on narrow screens lying ones in a stack.
    const long = upright ? 250 : frame.clientWidth - 40;
    const size = upright ? [frame.clientWidth, long + 64] : [frame.clientWidth, gap * names.length + 8];
    const place_at = (i, share) => (upright ? [gap * (i + 0.5), 36 + long * (1 - share)] : [20 + long * share, 34 + gap * i]);
    frame.replaceChildren();
    const svg = shape(frame, "svg", { width: size[0], height: size[1], role: "img", "aria-label": "Parallel coordinates of the trials shown" });
    const lines = shape(svg, "g", { fill: "none" });
    const losses = isLoss(metric.value);
    const last = axes.at(-1);
    const shown = shownTrials().filter((trial) => cell(trial, metric.value) !== null);
    const chosen = selectedOf(shown);
    const thin = shown.length > 50 ? 1.2 : 2;
    // Good trials are drawn last, above the others, and the chosen ones above all.
    const merit = (trial) => (chosen.has(trial) ? 2 : losses ? 1 - last.at(cell(trial, metric.value)) : last.at(cell(trial, metric.value)));
    for (const trial of shown.sort((a, b) => merit(a) - merit(b))) {
      const steps = axes.map((axis, i) => {
        const value = cell(trial, axis.name);
        return value === null ? null : place_at(i, axis.at(value));
      }).filter(Boolean);
      const value = last.at(cell(trial, metric.value));
      const line = shape(lines, "path", {
        d: `M${steps.map((point) => point.map((v) => v.toFixed(1)).join(",")).join("L")}`,
        stroke: ramp(losses ? 1 - value : value),
        "stroke-width": chosen.has(trial) ? 3 : thin,
        "stroke-opacity": chosen.size && !chosen.has(trial) ? 0.12 : 0.75,
        "data-trial": trial,
      });
      shape(line, "title", {}, `${TRIALS.names[trial]}: ${spoken(metric.value)} ${cell(trial, metric.value)}`);
    }
    axes.forEach((axis, i) => drawAxis(svg, axis, i, upright, place_at, gap));
    hint.textContent = shown.length ? "" : "No trial shown has this result.";
  };
  frame.addEventListener("click", (event) => {
    const trial = event.target.dataset?.trial;
    if (trial !== undefined) toggle(Number(trial));
  });
  onUpdate(redraw);
  new ResizeObserver(() => { if (frame.firstChild && Number(frame.firstChild.getAttribute("width")) !== frame.clientWidth) update(); }).observe(frame);
}

function drawAxis(svg, axis, index, upright, place_at, gap) {
  const [start, end] = [place_at(index, 0), place_at(index, 1)];
  const group = shape(svg, "g", { class: "axis" });
  shape(group, "line", { x1: start[0], y1: start[1], x2: end[0], y2: end[1] });
  const every = Math.ceil(axis.ticks.length / (upright ? 12 : 5));
  const most = upright ? 20 : Math.max(4, Math.floor((end[0] - start[0]) / axis.ticks.length / 7));
  axis.ticks.filter((_, i) => i % every === 0).forEach(([share, words]) => {
    const [x, y] = place_at(index, share);
    const anchor = upright ? "start" : share > 0.9 ? "end" : share < 0.1 ? "start" : "middle";
    shape(group, "text", upright ? { x: x + 6, y: y + 4 } : { x, y: y + 15, "text-anchor": anchor }, words.length > most ? `${words.slice(0, most - 1)}…` : words);
  });
  const label = axis.name.includes(".") ? axis.name.split(".").at(-1) : axis.name;
  shape(group, "text", upright ? { x: start[0], y: 16, "text-anchor": "middle", class: "name" } : { x: 0, y: start[1] - 10, class: "name" }, label);
  const area = shape(group, "rect", upright
    ? { x: start[0] - 12, y: end[1] - 8, width: 24, height: start[1] - end[1] + 16 }
    : { x: start[0] - 8, y: start[1] - 12, width: end[0] - start[0] + 16, height: 24 });
  area.setAttribute("class", "brush");
  area.dataset.axis = axis.name;
  const share = (event) => {
    const box = svg.getBoundingClientRect();
    const at = upright ? (start[1] - (event.clientY - box.top)) / (start[1] - end[1]) : (event.clientX - box.left - start[0]) / (end[0] - start[0]);
    return Math.min(1.02, Math.max(-0.02, at));
  };
  let begun = null;
  const mark = shape(group, "rect", { class: "mark" });
  area.addEventListener("pointerdown", (event) => {
    begun = share(event);
    area.classList.add("dragged");
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    if (begun === null) return;
    const [low, high] = [begun, share(event)].sort((a, b) => a - b);
    const [a, b] = [place_at(index, low), place_at(index, high)];
    const box = upright ? { x: a[0] - 6, y: b[1], width: 12, height: a[1] - b[1] } : { x: a[0], y: a[1] - 6, width: b[0] - a[0], height: 12 };
    for (const [name, value] of Object.entries(box)) mark.setAttribute(name, value);
  });
  area.addEventListener("pointerup", (event) => {
    const [low, high] = [begun, share(event)].sort((a, b) => a - b);
    begun = null;
    area.classList.remove("dragged");
    setTerms(axis.name, high - low < 0.03 ? [] : termsOf(axis, low, high));
  });
  area.addEventListener("pointercancel", () => {
    begun = null;
    area.classList.remove("dragged");
    update();
  });
}

// Returns the terms of a filter for a part of an axis.
function termsOf(axis, low, high) {
  if (!axis.levels) return [...(low > 0 ? [`${axis.name}>=${axis.back(low)}`] : []), ...(high < 1 ? [`${axis.name}<=${axis.back(high)}`] : [])];
  const kept = axis.levels.filter((level) => axis.at(level) >= low && axis.at(level) <= high);
  if (kept.length === 0 || kept.length === axis.levels.length) return [];
  const quoted = (level) => (/^$|\s/.test(text(level)) ? `"${level}"` : level);
  if (kept.length === 1) return [`${axis.name}=${quoted(kept[0])}`];
  return axis.levels.filter((level) => !kept.includes(level)).map((level) => `${axis.name}!=${quoted(level)}`);
}

// ---- Charts of one and two settings

function categoryAxis(values) {
  return { type: "category", automargin: true, tickvals: values.map(text), ticktext: tickTexts(values) };
}

function axisOf(name, values) {
  const number = TRIALS.columns[COLUMN[name]].number;
  const known = values.filter((value) => value !== null);
  return {
    title: { text: spoken(name) },
    ...(number ? valueAxis(known, known.length > 0 && isWide(known)) : categoryAxis([...new Set(known)])),
  };
}

function scatter(place, settings, metric, first) {
  const controls = add(place, "div", { className: "controls" });
  const x = choice(controls, "setting", settings, "sx", first);
  const by = choice(controls, "colour", groupings(), "sby", defaultGrouping());
  const plot = add(place, "div", { className: "plot" });
  const keys = add(place, "div", { className: "legend" });
  onUpdate(() => {
    const shown = shownTrials().filter((trial) => cell(trial, metric.value) !== null);
    const entries = grouped(shown, by.value);
    const hidden = legend(keys, entries, "shide");
    const chosen = selectedOf(shown);
    const traces = entries.filter((entry) => !hidden.has(entry.label)).map((entry) => ({
      x: entry.trials.map((trial) => cell(trial, x.value)),
      y: entry.trials.map((trial) => cell(trial, metric.value)),
      text: entry.trials.map((trial) => escaped(TRIALS.names[trial])),
      customdata: entry.trials, mode: "markers", name: entry.label,
      marker: {
        color: entry.color,
        size: entry.trials.map((trial) => (chosen.has(trial) ? 13 : 7)),
        opacity: entry.trials.map((trial) => (chosen.size && !chosen.has(trial) ? 0.25 : 0.85)),
        line: { width: entry.trials.map((trial) => (chosen.has(trial) ? 2 : 0)), color: css("--text") },
      },
      hovertemplate: `%{text}<br>${spoken(x.value)} %{x}, ${spoken(metric.value)} %{y:.4g}<extra></extra>`,
    }));
    draw(plot, traces, {
      xaxis: axisOf(x.value, traces.flatMap((trace) => trace.x)),
      yaxis: axisOf(metric.value, traces.flatMap((trace) => trace.y)),
    }, (point) => toggle(point.customdata));
  });
}

function heatMap(place, grid, metric) {
  const controls = add(place, "div", { className: "controls" });
  const across = choice(controls, "across", grid, "hx", grid[1]);
  const down = choice(controls, "down", grid, "hy", grid[0]);
  const of = choice(controls, "value", ["mean", "best"], "hv", TRIALS.searches.length ? "best" : "mean");
  const plot = add(place, "div", { className: "plot" });
  onUpdate(() => {
    const trials = shownTrials().filter((trial) => cell(trial, metric.value) !== null);
    const sorted = (name) => [...new Set(trials.map((trial) => cell(trial, name)))].sort((a, b) => (a < b ? -1 : 1));
    const [columns, rows] = [sorted(across.value), sorted(down.value)];
    const found = rows.map((row) => columns.map((column) => trials
      .filter((trial) => cell(trial, across.value) === column && cell(trial, down.value) === row)
      .map((trial) => cell(trial, metric.value))));
    const best = isLoss(metric.value) ? Math.min : Math.max;
    const reduce = (values) => (of.value === "best" ? best(...values) : values.reduce((a, b) => a + b) / values.length);
    const means = found.map((row) => row.map((values) => (values.length ? reduce(values) : null)));
    const log = isWide(means.flat().filter((value) => value !== null));
    draw(plot, [{
      type: "heatmap", x: columns.map(text), y: rows.map(text),
      z: means.map((row) => row.map((value) => (value === null || !log ? value : Math.log10(value)))),
      text: found.map((row, i) => row.map((values, j) => (values.length ? short(means[i][j], 3) : ""))),
      customdata: found.map((row) => row.map((values) => values.length)),
      texttemplate: "%{text}", colorscale: SCALES.gate, reversescale: isLoss(metric.value), hoverongaps: false, xgap: 2, ygap: 2,
      colorbar: colorbar(log ? "log10" : ""),
      hovertemplate: `${across.value} %{x}, ${down.value} %{y}<br>${of.value} of %{customdata} trials: %{text}<extra></extra>`,
    }], {
      xaxis: { title: { text: spoken(across.value) }, ...categoryAxis(columns) },
      yaxis: { title: { text: spoken(down.value) }, ...categoryAxis(rows) },
    });
  });
}

// ---- What a search found

function importance(place, found) {
  const plot = add(place, "div", { className: "plot" });
  add(place, "p", {
    className: "note",
    textContent: `Loss of R² when a setting is permuted, of a random forest that predicts log(training loss) at epoch ${found.epoch}`
      + ` of ${found.trials} trials (R² ${found.r2.toFixed(2)} on trials that it has not seen). Bars are the standard deviation over 5 folds.`,
  });
  const settings = [...found.settings].reverse();
  onUpdate(() => draw(plot, [{
    type: "bar", orientation: "h", y: settings.map((s) => s.name), x: settings.map((s) => s.mean),
    error_x: { array: settings.map((s) => s.std), color: css("--text"), thickness: 1.5, width: 4 },
    marker: { color: color(0) }, hovertemplate: "%{y}: %{x:.2f}<extra></extra>",
  }], { xaxis: { title: { text: "Importance" }, rangemode: "tozero" }, bargap: 0.4 }));
}

function rungs(place, search) {
  const plot = add(place, "div", { className: "plot" });
  const note = add(place, "p", { className: "note" });
  onUpdate(() => {
    const shown = new Set(shownTrials());
    const chosen = selected();
    const lines = { x: [], y: [] };
    const dots = { kept: [], dropped: [], selected: [] };
    const counts = search.rungs.map(() => [0, 0]);
    search.trials.forEach((trial, i) => {
      const curve = TRIALS.curves[trial];
      if (!shown.has(trial) || !curve?.train_loss) return;
      search.rungs.forEach((epoch, rung) => {
        const y = curve.train_loss[curve.epoch.indexOf(epoch)] ?? null;
        if (y === null) return;
        const kept = search.kept[i] > rung;
        counts[rung][0] += 1;
        counts[rung][1] += kept;
        dots[chosen.has(trial) ? "selected" : kept ? "kept" : "dropped"].push({ x: String(epoch), y, trial });
        lines.x.push(String(epoch));
        lines.y.push(y);
      });
      lines.x.push(null);
      lines.y.push(null);
    });
    const kinds = {
      dropped: { color: css("--soft"), symbol: "circle-open", size: 6 },
      kept: { color: color(0), symbol: "circle", size: 7 },
      selected: { color: color(1), symbol: "circle", size: 12 },
    };
    const traces = Object.entries(kinds).map(([kind, marker]) => ({
      x: dots[kind].map(({ x }) => x), y: dots[kind].map(({ y }) => y), mode: "markers", name: kind, marker,
      text: dots[kind].map(({ trial }) => escaped(TRIALS.names[trial])),
      hovertemplate: `%{text}<br>train loss %{y:.4g} at epoch %{x}, ${kind}<extra></extra>`,
    }));
    traces.unshift({ ...lines, mode: "lines", hoverinfo: "skip", showlegend: false, line: { color: faded(color(0), 0.3), width: 1 } });
    note.textContent = `Training loss at each rung. ${search.rungs.map((epoch, i) => `Epoch ${epoch}: ${counts[i][1]} of ${counts[i][0]} trials kept`).join("; ")}.`;
    draw(plot, traces, {
      xaxis: { title: { text: "Epoch of the rung" }, type: "category", categoryorder: "array", categoryarray: search.rungs.map(String) },
      yaxis: { title: { text: "train loss" }, ...valueAxis(lines.y.filter((y) => y !== null), true) },
      showlegend: true, legend: { orientation: "h", y: 1.12 },
    });
  });
}
