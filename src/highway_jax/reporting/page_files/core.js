"use strict";

// What all charts share: state, colours, controls, and the trials that are shown.

const SCALES = JSON.parse(document.getElementById("scales").textContent);
let TRIALS = null;
let COLUMN = {};
// Nothing of a report leaves the page: no button uploads a chart.
const CONFIG = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d"],
};
const PALETTES = {
  light: ["#1b6ca8", "#d9601a", "#3f8f2f", "#a6408f", "#a67c1d", "#14868a", "#6f63cf", "#c2403a", "#7a5230", "#6b7280"],
  dark: ["#6db3e8", "#f0965a", "#86c96f", "#e08fcb", "#dcb95e", "#5cc9c4", "#aca2f2", "#f0837c", "#c79a74", "#a9b0ba"],
};
const KINDS = {};
const redraws = [];

// ---- State: the hash of the address holds all that a reader has chosen, so a link shares it.

const State = {
  values: new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""),
  get(key, fallback = "") {
    return this.values.get(key) ?? fallback;
  },
  set(key, value, fallback = "") {
    if (value === fallback) this.values.delete(key);
    else this.values.set(key, value);
    const hash = this.values.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  },
  list(key) {
    const text = this.get(key);
    return text ? text.split("~") : [];
  },
};
addEventListener("hashchange", () => { if (location.hash.includes("=")) location.reload(); });

let pending = false;
function update() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    redraws.forEach((redraw) => redraw());
  });
}

function onUpdate(redraw) {
  redraws.push(redraw);
  redraw();
}

// ---- Elements and controls

function add(parent, tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  parent.append(element);
  return element;
}

function choice(parent, words, options, key, fallback = options[0]) {
  const select = add(add(parent, "label", {}, words), "select", { name: words });
  options.forEach((name) => add(select, "option", { value: name, textContent: name }));
  select.value = State.get(key, fallback);
  if (select.selectedIndex < 0) select.value = fallback;
  select.addEventListener("change", () => { State.set(key, select.value, fallback); update(); });
  return select;
}

function slider(parent, words, properties, key, fallback) {
  const label = add(parent, "label", {}, words);
  const input = add(label, "input", { type: "range", name: words, ...properties });
  input.value = State.get(key, fallback);
  const output = add(label, "output", { textContent: input.value });
  input.addEventListener("input", () => {
    output.textContent = input.value;
    State.set(key, input.value, String(fallback));
    update();
  });
  return input;
}

function checkbox(parent, words, checked, change) {
  const label = add(parent, "label");
  const input = add(label, "input", { type: "checkbox", name: words, checked });
  label.append(words);
  input.addEventListener("change", () => { change(input.checked); update(); });
  return input;
}

// ---- Colours

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function color(index) {
  const palette = PALETTES[isDark() ? "dark" : "light"];
  return palette[index % palette.length];
}

function faded(hex, alpha) {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${red},${green},${blue},${alpha})`;
}

function ramp(share) {
  // The dark end of the scale is hard to see on dark, and its light end on white.
  const [low, high] = isDark() ? [0.3, 1] : [0, 0.85];
  const at = low + (high - low) * Math.min(1, Math.max(0, share));
  const scale = SCALES.gate;
  return scale[Math.round(at * (scale.length - 1))][1];
}

function diverging() {
  return [[0, isDark() ? "#5aa9e6" : "#2166ac"], [0.5, css("--back")], [1, isDark() ? "#f08a5d" : "#b2182b"]];
}

function applyTheme() {
  const chosen = State.get("theme", "auto");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = chosen === "auto" ? (dark ? "dark" : "light") : chosen;
}

function layout(changes = {}) {
  const axis = {
    gridcolor: css("--line"), linecolor: css("--line"), zeroline: false,
    exponentformat: "power", title: { standoff: 8 },
  };
  const { xaxis, yaxis, ...others } = changes;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--text"), size: 12, family: "inherit" },
    margin: { l: 56, r: 12, t: 28, b: 44 },
    hovermode: "closest",
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left", namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
    showlegend: false,
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, automargin: true, ...yaxis },
    ...others,
  };
}

function heading(text) {
  return { text, font: { size: 13 }, x: 0, xref: "paper", xanchor: "left" };
}

function colorbar(text = "") {
  return { thickness: 10, outlinewidth: 0, exponentformat: "power", tickfont: { color: css("--soft") }, title: { text, side: "right" } };
}

// Draws a chart, once it is near the part of the page that is seen: most charts of a long page are not.
function draw(element, traces, changes, clicked) {
  const begun = "due" in element;
  element.due = () => {
    element.due = null;
    const shown = zoomed(element, layout(changes));
    Plotly.react(element, traces, shown, CONFIG);
    if (element.drawn) return;
    element.drawn = true;
    element.on("plotly_relayout", (change) => keepZoom(element, change));
    if (clicked) element.on("plotly_click", ({ points: [point] }) => clicked(point));
    // Plotly follows the window alone, and a chart that comes beside another one narrows it too.
    new ResizeObserver(() => { if (element.clientWidth) Plotly.Plots.resize(element); }).observe(element);
  };
  if (!begun) near.observe(element);
  else if (element.near) element.due();
}

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.near = isIntersecting;
    if (isIntersecting) target.due?.();
  }
}, { rootMargin: "600px 0px" });
addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((plot) => plot.due?.()));

// The part of a chart that a reader zoomed to holds as long as its axes mean the same.
function zoomKey(element) {
  const { kind } = element.closest(".chart").dataset;
  return `zoom-${kind}${[...document.querySelectorAll(`.chart[data-kind=${kind}] .plot`)].indexOf(element)}`;
}

function meaning({ xaxis, yaxis }) {
  return [xaxis, yaxis].map((axis) => `${axis.type ?? ""} ${axis.title.text}`);
}

function zoomed(element, shown) {
  const [x0, x1, y0, y1, ...axes] = State.list(zoomKey(element));
  if (axes.join() === meaning(shown).join()) {
    Object.assign(shown.xaxis, { range: [Number(x0), Number(x1)], autorange: false });
    Object.assign(shown.yaxis, { range: [Number(y0), Number(y1)], autorange: false });
  }
  element.axes = meaning(shown);
  return shown;
}

function keepZoom(element, change) {
  const names = Object.keys(change);
  if (names.some((name) => name.endsWith("autorange"))) {
    State.set(zoomKey(element), "");
    update();  // An axis may be reversed, or begin at zero.
  } else if (names.some((name) => name.includes("range["))) {
    const { xaxis, yaxis } = element.layout;
    const ends = [...xaxis.range, ...yaxis.range].map((end) => Number(end).toPrecision(5));
    State.set(zoomKey(element), [...ends, ...element.axes].join("~"));
  }
}

// Entries of a legend are buttons in HTML, so that long names wrap on a narrow screen.
function legend(element, entries, key) {
  const hidden = new Set(State.list(key));
  element.replaceChildren(...entries.map((entry) => {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaPressed = String(!hidden.has(entry.label));
    const swatch = add(button, "i");
    swatch.style.background = entry.color;
    button.append(entry.label);
    button.title = "click: hide or show; double-click: show this alone";
    button.addEventListener("click", () => {
      if (!hidden.delete(entry.label)) hidden.add(entry.label);
      State.set(key, [...hidden].join("~"));
      update();
    });
    button.addEventListener("dblclick", () => {
      const others = entries.map((other) => other.label).filter((label) => label !== entry.label);
      const alone = others.every((label) => hidden.has(label));
      State.set(key, (alone ? [] : others).join("~"));
      update();
    });
    return button;
  }));
  return hidden;
}

// ---- Trials

function readTrials(page) {
  TRIALS = JSON.parse(page.getElementById("trials").textContent);
  COLUMN = Object.fromEntries((TRIALS?.columns ?? []).map((column, i) => [column.name, i]));
}

function cell(trial, name) {
  return TRIALS.rows[trial][COLUMN[name]] ?? null;
}

function valuesOf(name) {
  return new Set(TRIALS.rows.map((_, trial) => cell(trial, name)));
}

function columnsOf(role, varied = true) {
  return TRIALS.columns.filter((c) => c.role === role && (c.varied || !varied));
}

function text(value) {
  return value === null || value === undefined ? "" : String(value);
}

// Returns values as short texts: names of runs often begin alike and differ at their ends.
function tickTexts(values) {
  const names = values.map(text);
  const [first, ...others] = names;
  let same = 0;
  while (others.length && same < first.length && others.every((name) => name[same] === first[same])) same += 1;
  const begin = first?.slice(0, same).search(/[^a-z0-9]*[a-z0-9]*$/i) ?? 0;
  return names.map((name) => {
    const rest = begin > 8 ? `…${name.slice(begin).replace(/^[^a-z0-9]+/i, "")}` : name;
    return rest.length > 26 ? `${rest.slice(0, 12)}…${rest.slice(-13)}` : rest;
  });
}

function short(value, digits) {
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

function isLoss(name) {
  return name.endsWith("loss");
}

function spoken(name) {
  return name.replaceAll("_", " ").replace(/^valid /, "validation ");
}

const OPERATORS = {
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
};

// Returns a test of a trial for each term of a filter, and what is wrong with the others.
function parseFilter(words) {
  const tests = [];
  const errors = [];
  for (const [term] of words.matchAll(/(?:[^\s"]|"[^"]*"?)+/g)) {
    const match = /^([^<>=!"]+)(!=|<=|>=|=|<|>)(.*)$/.exec(term);
    if (!match) {
      const wanted = term.replaceAll('"', "").toLowerCase();
      tests.push((trial) => TRIALS.rows[trial].some((v) => text(v).toLowerCase().includes(wanted)));
      continue;
    }
    const [, name, operator, quoted] = match;
    const wanted = quoted.replaceAll('"', "").toLowerCase();
    if (!(name in COLUMN)) {
      errors.push(`no column is named ${name}`);
    } else if (wanted === "" && !quoted) {
      errors.push(`${name}${operator} needs a value`);
    } else if (TRIALS.columns[COLUMN[name]].number && !Number.isFinite(Number(wanted))) {
      errors.push(`${name} is a number, and ${quoted} is none`);
    } else {
      tests.push((trial) => {
        const value = cell(trial, name);
        if (typeof value === "number") return OPERATORS[operator](value, Number(wanted));
        return value === null ? operator === "!=" : OPERATORS[operator](text(value).toLowerCase(), wanted);
      });
    }
  }
  return { tests, errors };
}

function shownTrials() {
  const { tests } = parseFilter(State.get("q"));
  return TRIALS.rows.map((_, i) => i).filter((trial) => tests.every((test) => test(trial)));
}

// Replaces the terms of a filter that are about a column.
function setTerms(name, terms) {
  const others = [...State.get("q").matchAll(/(?:[^\s"]|"[^"]*"?)+/g)]
    .map(([term]) => term).filter((term) => !/^[<>=!]/.test(term.slice(name.length)) || !term.startsWith(name));
  State.set("q", [...others, ...terms].join(" "));
  update();
}

function selected() {
  return new Set(State.list("sel").map((id) => TRIALS.ids.indexOf(id)).filter((trial) => trial >= 0));
}

// Returns the selected ones of some trials: what a filter hides is not highlighted, and dims nothing.
function selectedOf(trials) {
  const chosen = selected();
  return new Set(trials.filter((trial) => chosen.has(trial)));
}

function toggle(trial) {
  const trials = selected();
  if (!trials.delete(trial)) trials.add(trial);
  State.set("sel", [...trials].sort((a, b) => a - b).map((trial) => TRIALS.ids[trial]).join("~"));
  update();
}

const BINS = 8;

// Groups trials by a column, or by "setting" or "net": entries of a label, a colour and trials.
function grouped(trials, by) {
  const numbers = by === "setting" ? TRIALS.setting : by === "net" ? TRIALS.net : null;
  if (numbers) {
    const labels = by === "setting" ? TRIALS.labels : TRIALS.nets;
    const members = new Map();
    for (const t of trials) members.set(numbers[t], [...(members.get(numbers[t]) ?? []), t]);
    const natural = (a, b) => labels[a].localeCompare(labels[b], "en", { numeric: true });
    const order = labels.map((_, number) => number).sort(natural);
    return order.map((number, i) => ({ label: labels[number], color: color(i), trials: members.get(number) ?? [] }))
      .filter((entry) => entry.trials.length);
  }
  const all = TRIALS.rows.map((_, trial) => cell(trial, by));
  const isNumber = TRIALS.columns[COLUMN[by]].number;
  const values = [...new Set(all)].filter((v) => v !== null).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const chunks = isNumber && values.length > BINS
    ? Array.from({ length: BINS }, (_, i) => values.slice(Math.floor((i * values.length) / BINS), Math.floor(((i + 1) * values.length) / BINS)))
    : values.map((value) => [value]);
  if (all.includes(null)) chunks.push([null]);
  const number = (value) => (typeof value === "number" ? short(value, 3) : text(value));
  return chunks.map((chunk, i) => {
    const members = new Set(chunk);
    const ends = chunk.length > 1 ? `${number(chunk[0])} to ${number(chunk.at(-1))}` : number(chunk[0]);
    return {
      label: chunk[0] === null ? `no ${by}` : `${by} ${ends}`,
      color: isNumber && values.length > 2 ? ramp(i / Math.max(1, chunks.length - 1)) : color(i),
      trials: trials.filter((t) => members.has(cell(t, by))),
    };
  }).filter((entry) => entry.trials.length);
}

// Returns settings with the names of cases and runs after all others: they stand for several of these.
function namesLast(settings) {
  const rank = (name) => ["case", "run"].indexOf(name);
  return [...settings].sort((a, b) => rank(a) - rank(b));
}

// Returns the varied settings, one of those that divide the trials alike: what a case or a run is
// called says less than the settings in which it differs.
function settingsThatDiffer() {
  const names = columnsOf("setting").map((column) => column.name);
  const seen = new Set();
  const kept = namesLast(names).filter((name) => {
    const numbers = new Map();
    const division = TRIALS.rows.map((_, trial) => {
      const value = cell(trial, name);
      return numbers.get(value) ?? numbers.set(value, numbers.size).get(value);
    }).join();
    return !seen.has(division) && seen.add(division);
  });
  return names.filter((name) => kept.includes(name));
}

function groupings() {
  const varied = settingsThatDiffer();
  const status = TRIALS.columns[COLUMN.status]?.varied ? ["status"] : [];
  return [...(TRIALS.labels.length <= 40 ? ["setting"] : []), "net", ...varied, ...status];
}

// Returns by what trials are coloured at first: the finest grouping that has enough colours.
function defaultGrouping() {
  if (TRIALS.labels.length <= 8) return "setting";
  const most = PALETTES.light.length;
  if (TRIALS.nets.length <= most) return "net";
  return namesLast(settingsThatDiffer()).find((name) => valuesOf(name).size <= most) ?? "net";
}
