// Curves of all trials: means over the seeds of a setting, or single trials.

const SPLITS = { train: "solid", valid: "dash", test: "dot" };
const SPLIT_NAMES = { train: "train", valid: "validation", test: "test" };
const TOO_MANY = 8;

function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// Returns points [x, y, step] of a trial, without those that were not measured.
function points(trial, metric, axis, weight) {
  const curve = TRIALS.curves[trial];
  if (!curve?.[metric]) return [];
  const seconds = TRIALS.seconds[trial];
  const x = axis === "epoch" ? curve.epoch : curve.step.map((step) => (axis === "step" ? step : seconds && step && step * seconds));
  const y = smoothed(curve[metric], weight);
  return x.map((value, i) => [value, y[i], axis === "time" ? curve.step[i] : value]).filter(([a, b]) => typeof a === "number" && b !== null);
}

// Returns the mean and the deviation of several curves, at each step that at least two have. Over time,
// trials of several batches reach a step at different times, of which the mean is drawn.
function meanOf(curves) {
  const at = new Map();
  for (const curve of curves) for (const [x, y, step] of curve) at.set(step, [...(at.get(step) ?? []), [x, y]]);
  return [...at].filter(([, all]) => all.length > 1).sort(([a], [b]) => a - b).map(([, points]) => {
    const average = (values) => values.reduce((a, b) => a + b) / values.length;
    const x = average(points.map(([time]) => time));
    const all = points.map(([, y]) => y);
    const mean = average(all);
    const variance = all.reduce((sum, y) => sum + (y - mean) ** 2, 0) / (all.length - 1);
    return { x, mean, std: Math.sqrt(variance), least: Math.min(...all) };
  });
}

KINDS.curves = (place) => {
  const quantities = [...new Set(TRIALS.metrics.map((metric) => metric.split("_")[1]))];
  const splits = Object.keys(SPLITS).filter((split) => TRIALS.metrics.some((m) => m.startsWith(split)));
  const many = TRIALS.labels.length > TOO_MANY;
  const repeated = TRIALS.labels.length < TRIALS.rows.length && !many;
  const controls = add(place, "div", { className: "controls" });
  const quantity = choice(controls, "show", quantities, "y");
  const shape = choice(controls, "draw", ["mean ± std", "each trial"], "draw", repeated ? "mean ± std" : "each trial");
  const axis = choice(controls, "over", ["epoch", "step", "time"], "x");
  const scale = choice(controls, "scale", ["auto", "log", "linear"], "scale");
  const by = choice(controls, "colour by", groupings(), "by", defaultGrouping());
  const smoothing = slider(controls, "smoothing", { min: 0, max: 0.98, step: 0.02 }, "smooth", 0);
  const sets = add(controls, "span", { className: "set" });
  const defaults = (many ? splits.slice(0, 1) : splits).join("~");
  const isShown = (split) => State.get("splits", defaults).split("~").includes(split);
  for (const split of splits) {
    const box = checkbox(sets, SPLIT_NAMES[split], isShown(split), (checked) => {
      State.set("splits", splits.filter((s) => (s === split ? checked : isShown(s))).join("~"), defaults);
    });
    box.parentElement.classList.add("line", SPLITS[split]);
  }
  const plot = add(place, "div", { className: "plot tall" });
  const keys = add(place, "div", { className: "legend" });
  if (TRIALS.stride > 1) {
    add(place, "p", { className: "note", textContent: `One of ${TRIALS.stride} points is drawn, those at rungs, and the last of each trial.` });
  }
  onUpdate(() => {
    const shown = shownTrials();
    const entries = grouped(shown, by.value);
    const hidden = legend(keys, entries, "hide");
    const visible = entries.filter((entry) => !hidden.has(entry.label));
    const chosen = selectedOf(shown);
    const traces = [];
    for (const split of splits.filter(isShown)) {
      const metric = `${split}_${quantity.value}`;
      const read = (trial) => points(trial, metric, axis.value, Number(smoothing.value));
      for (const entry of visible) traces.push(...entryTraces(entry, shape.value, read, chosen, split));
    }
    const values = traces.filter((trace) => !trace.low).flatMap((trace) => trace.y).filter((y) => y !== null);
    const positive = values.length > 0 && values.every((y) => y > 0);
    const log = scale.value === "log" || (scale.value === "auto" && isLoss(quantity.value) && positive);
    const range = scale.value === "auto" && log ? rangeWithoutOutliers(values) : null;
    for (const trace of traces) if (log && trace.low) trace.y = trace.low;
    draw(plot, traces, {
      xaxis: { title: { text: axis.value === "time" ? "Time of training of the batch (s)" : axis.value === "step" ? "Step" : "Epoch" } },
      yaxis: {
        title: { text: spoken(quantity.value) + (range ? ", highest 1 % cut off (scale: log shows them)" : "") },
        ...valueAxis(values, log), ...(range && { range, ...valueAxis(range.map((end) => 10 ** end), true) }),
      },
      annotations: values.length ? [] : [{ text: "Nothing to draw: no trial shown has such a curve.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
    }, ({ customdata }) => { if (typeof customdata === "number") toggle(customdata); });
  });
};

// Over a decade and more, digits between powers of ten would only be clutter, and over many, each power.
function valueAxis(values, log) {
  const span = log ? values.reduce((a, b) => Math.max(a, b), 0) / values.reduce((a, b) => Math.min(a, b), Infinity) : 1;
  return { type: log ? "log" : "linear", dtick: span > 20 ? Math.ceil(Math.log10(span) / 12) : span > 3 ? "D2" : undefined };
}

// Returns the ends of a logarithmic axis if a few losses, of trials that diverge, would use most of it up.
function rangeWithoutOutliers(values) {
  const logs = values.map(Math.log10).sort((a, b) => a - b);
  const [low, high, top] = [logs[0], logs[Math.floor(0.99 * (logs.length - 1))], logs.at(-1)];
  return top - low > 2 * (high - low) ? [low - 0.1, high + 0.3] : null;
}

// Returns the traces of an entry of the legend: its lines are one trace, with gaps between them.
function entryTraces(entry, shape, read, chosen, split) {
  const dim = chosen.size > 0;
  const base = (opacity, width) => ({
    mode: "lines", connectgaps: false, hoverinfo: "text", opacity,
    line: { color: entry.color, width, dash: SPLITS[split] },
    hovertemplate: `%{text}<br>${SPLIT_NAMES[split]} %{y:.4g} at %{x}<extra></extra>`,
  });
  const [lines, single, bright] = [0, 1, 2].map(() => ({ x: [], y: [], text: [], customdata: [] }));
  const band = { x: [], y: [], floor: [] };
  const put = (into, xs, ys, name, id) => {
    const target = xs.length === 1 ? single : into;
    for (let i = 0; i <= xs.length; i += 1) {  // A gap after the last point.
      target.x.push(xs[i] ?? null);
      target.y.push(ys[i] ?? null);
      target.text.push(name);
      target.customdata.push(id);
    }
  };
  const each = (trial, into) => {
    const curve = read(trial);
    if (curve.length) put(into, curve.map(([x]) => x), curve.map(([, y]) => y), escaped(TRIALS.names[trial]), trial);
  };
  const bySetting = new Map();
  for (const trial of entry.trials) {
    const key = shape === "mean ± std" ? TRIALS.setting[trial] : trial;
    bySetting.set(key, [...(bySetting.get(key) ?? []), trial]);
  }
  for (const trials of bySetting.values()) {
    const curves = trials.map(read).filter((curve) => curve.length);
    if (trials.length === 1 || curves.length < 2) {
      trials.filter((trial) => !chosen.has(trial)).forEach((trial) => each(trial, lines));
      continue;
    }
    const mean = meanOf(curves);
    const label = TRIALS.labels[TRIALS.setting[trials[0]]];
    put(lines, mean.map((p) => p.x), mean.map((p) => p.mean), `${escaped(label)}, mean of ${curves.length} trials`, null);
    if (mean.length > 1) {
      const back = [...mean].reverse();
      band.x.push(...mean.map((p) => p.x), ...back.map((p) => p.x), null);
      band.y.push(...mean.map((p) => p.mean + p.std), ...back.map((p) => p.mean - p.std), null);
      // A logarithmic axis would stretch a band that comes near zero: it ends at the smallest curve.
      band.floor.push(...mean.map((p) => p.least), ...back.map((p) => p.least), null);
    }
  }
  entry.trials.filter((trial) => chosen.has(trial)).forEach((trial) => each(trial, bright));
  const traces = [];
  if (band.x.length) {
    traces.push({
      x: band.x, y: band.y, fill: "toself", mode: "lines", line: { width: 0 }, hoverinfo: "skip",
      fillcolor: faded(entry.color, dim ? 0.06 : 0.18), opacity: 1, name: "band",
      low: band.y.map((y, i) => (y === null ? null : Math.max(y, band.floor[i]))),
    });
  }
  const count = bySetting.size;
  if (lines.x.length) traces.push({ ...base(dim ? 0.2 : count > 20 ? 0.75 : 1, count > 20 ? 1 : 2), ...lines, name: entry.label });
  if (bright.x.length) traces.push({ ...base(1, 3), ...bright, name: `${entry.label}, selected` });
  if (single.x.length) {
    traces.push({
      ...base(1, 1), ...single, mode: "markers", name: `${entry.label}, one point`,
      marker: { color: entry.color, size: 9, symbol: { solid: "circle", dash: "diamond", dot: "square-open" }[SPLITS[split]] },
    });
  }
  return traces;
}

// Plotly reads a few tags in texts; names of cases are no markup.
function escaped(name) {
  return name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
