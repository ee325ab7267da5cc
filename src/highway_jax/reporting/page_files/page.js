"use strict";

// Draws the charts of a report from the JSON data beside them: one function a kind.

const COLORS = ["#1b6ca8", "#d95f02", "#66a61e", "#a6408f", "#a6761d", "#1b9e9e", "#8da0cb", "#c44"];
// Nothing of a report leaves the page: no button that uploads a chart.
const CONFIG = {
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["sendChartToCloud", "sendDataToCloud"],
};
const SCALES = JSON.parse(document.getElementById("scales").textContent);
const redraws = [];

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(changes) {
  const axis = { gridcolor: css("--line"), zeroline: false, automargin: true };
  const { xaxis, yaxis, ...others } = changes;
  return {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { color: css("--text"), size: 12 },
    margin: { l: 60, r: 20, t: 36, b: 48 },
    hovermode: "closest",
    legend: innerWidth < 700 ? { orientation: "h", y: -0.3 } : {},
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...others,
  };
}

function add(parent, tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  parent.append(element);
  return element;
}

function choice(parent, words, names, change) {
  const select = Object.assign(document.createElement("select"), { name: words });
  names.forEach((name, i) => add(select, "option", { value: i, textContent: name }));
  select.addEventListener("change", change);
  add(parent, "label", {}, words, select);
  return select;
}

function number(parent, words, count, change) {
  const input = Object.assign(document.createElement("input"), {
    type: "range", name: words, min: 1, max: count, value: 1,
  });
  const output = document.createElement("output");
  const show = () => { output.textContent = input.value; };
  show();
  input.addEventListener("input", () => { show(); change(); });
  add(parent, "label", {}, words, input, output);
  return input;
}

// Draws now, and again when the window turns from light to dark.
function draw(redraw) {
  redraws.push(redraw);
  redraw();
}

// A few numbers far from the others would leave no colours for these.
function middle(values) {
  const sorted = values.flat().filter((value) => value !== null).sort((a, b) => a - b);
  return [0.005, 0.995].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
}

function isPositive(lines) {
  return lines.every((line) => line.y.every((value) => value === null || value > 0));
}

const KINDS = {
  lines(place, data) {
    const plot = add(place, "div", { className: "plot" });
    const group = (line) => line.color ?? line.name.split(",")[0];
    const groups = [...new Set(data.lines.map(group))];
    draw(() => Plotly.react(plot, data.lines.map((line) => ({
      x: line.x, y: line.y, name: line.name,
      mode: line.marks ? "markers" : "lines",
      line: { width: 1.5, dash: line.group === "plain" ? "dot" : "solid" },
      marker: { symbol: "circle-open", size: 8 },
      legendgroup: group(line),
      ...coloured(groups.indexOf(group(line)), line.name === "authors' log"),
    })), layout({
      xaxis: { title: { text: data.x } },
      yaxis: { title: { text: data.y }, type: isPositive(data.lines) ? "log" : "linear", exponentformat: "power", dtick: undefined },
    }), CONFIG));
  },

  curves(place, data) {
    const controls = add(place, "div", { className: "controls" });
    const nets = [...new Set(data.lines.map((line) => line.net))];
    const plot = add(place, "div", { className: "plot" });
    const redraw = () => {
      const name = data.metrics[metric.value];
      const chosen = Number(net.value);
      const lines = data.lines.filter((line) => chosen === 0 || line.net === nets[chosen - 1]);
      const traces = lines.map((line) => ({
        x: line.x, y: line.y[name], name: line.name, mode: "lines",
        line: { width: 1, color: COLORS[nets.indexOf(line.net) % COLORS.length] },
      }));
      const log = name.endsWith("loss") && isPositive(traces);
      Plotly.react(plot, traces, layout({
        showlegend: traces.length <= 20,
        xaxis: { title: { text: "Epoch" } },
        yaxis: { title: { text: name.replace("_", " ") }, type: log ? "log" : "linear", exponentformat: "power" },
      }), CONFIG);
    };
    const metric = choice(controls, "show", data.metrics.map((m) => m.replace("_", " ")), redraw);
    const net = choice(controls, "of", ["all nets", ...nets], redraw);
    draw(redraw);
  },

  inside(place, nets) {
    const controls = add(place, "div", { className: "controls" });
    const maps = add(place, "div", { className: "plots" });
    const [map, layer] = [0, 1].map(() => add(maps, "div", { className: "plot" }));
    const more = add(place, "div", { className: "plots" });
    const [lesions, pairs] = [0, 1].map(() => add(more, "div", { className: "plot" }));
    const views = {
      "biases after training": (net) => [net.after, SCALES.bias, ...middle(net.after)],
      "biases before training": (net) => [net.before, SCALES.bias],
      "mean gate outputs": (net) => [net.mean, SCALES.gate, 0, 1],
      "mean gates of a class, minus those of all": (net) => {
        const values = net.difference[of_class.value];
        const limit = Math.max(...values.flat().map(Math.abs));
        return [values, SCALES.difference, -limit, limit];
      },
      "gate outputs of an example": (net) => [net.gates[sample.value - 1], SCALES.gate, 0, 1],
      "block outputs of an example": (net) => [net.outputs[sample.value - 1], SCALES.output],
    };
    const redraw = () => {
      const net = nets[which.value];
      const name = Object.keys(views)[view.value];
      const [values, scale, low, high] = views[name](net);
      const one = name.includes("an example");
      sample.parentElement.hidden = picture.hidden = words.hidden = !one;
      of_class.parentElement.hidden = !name.includes("of a class");
      show_sample(net, sample.value - 1, picture, words);
      const chosen = Math.min(row.value, values.length);
      Plotly.react(map, [{
        z: values, x0: 1, y0: 1, type: "heatmap", colorscale: scale, zmin: low, zmax: high,
        hovertemplate: "layer %{y}, block %{x}: %{z}<extra></extra>",
      }], layout({
        title: { text: `${name}, ${net.title}`, font: { size: 13 } },
        xaxis: { title: { text: "Block" } },
        yaxis: { title: { text: "Layer" }, autorange: "reversed" },
      }), CONFIG);
      Plotly.react(layer, [{
        y: values[chosen - 1], x0: 1, type: "bar", marker: { color: css("--accent") },
        hovertemplate: "block %{x}: %{y}<extra></extra>",
      }], layout({
        title: { text: `layer ${chosen}`, font: { size: 13 } },
        xaxis: { title: { text: "Block" } },
        yaxis: { range: name.includes("biases") || low === undefined ? undefined : [low, high] },
      }), CONFIG);
      Plotly.react(lesions, [
        ...Object.entries(net.lesions).map(([kind, errors], i) => ({
          y: errors, x0: 1, name: kind, mode: "lines+markers", line: { width: 1 },
          marker: { size: 5 }, visible: i === 0 ? true : "legendonly", ...coloured(i),
          hovertemplate: `layer %{x} ${kind}: %{y} %<extra></extra>`,
        })),
        {
          y: net.lesions.shut.map(() => net.intact), x0: 1, name: "whole net", mode: "lines",
          line: { dash: "dash", width: 1, color: css("--text") },
        },
      ], layout({
        title: { text: "lesions", font: { size: 13 } },
        xaxis: { title: { text: "Layer" } },
        yaxis: { title: { text: "Training error (%)" }, rangemode: "tozero" },
        legend: { orientation: "h", y: -0.2 },
      }), CONFIG);
      pairs.hidden = net.pairs === null;
      if (net.pairs !== null) {
        Plotly.react(pairs, [{
          z: net.pairs, x0: 1, y0: 1, type: "heatmap", colorscale: SCALES.error,
          hovertemplate: "layers %{x} and %{y} shut: %{z} %<extra></extra>",
        }], layout({
          title: { text: "two layers shut: training error (%)", font: { size: 13 } },
          xaxis: { title: { text: "Layer" } },
          yaxis: { title: { text: "Layer" }, autorange: "reversed" },
        }), CONFIG);
      }
    };
    const which = choice(controls, "net", nets.map((net) => net.title), () => {
      sample.value = row.value = 1;
      of_class.replaceChildren();
      nets[which.value].classes.forEach((name, i) => add(of_class, "option", { value: i, textContent: name }));
      redraw();
    });
    const view = choice(controls, "show", Object.keys(views), redraw);
    const of_class = choice(controls, "class", nets[0].classes, redraw);
    const sample = number(controls, "example", nets[0].gates.length, redraw);
    const row = number(controls, "layer", nets[0].after.length, redraw);
    const picture = add(controls, "canvas", { className: "sample" });
    const words = add(controls, "span");
    draw(redraw);
  },

  trials(place, data) {
    const controls = add(place, "div", { className: "controls" });
    const filter = document.createElement("input");
    filter.placeholder = "words that a row must have";
    add(controls, "label", {}, "filter", filter);
    const count = add(controls, "span");
    add(place, "p", { className: "note", textContent: data.same });
    const table = add(add(place, "div", { className: "wide trials" }), "table");
    const head = add(add(table, "thead"), "tr");
    const body = add(table, "tbody");
    const is_number = data.columns.map((_, i) =>
      data.rows.every((row) => row[i] === null || typeof row[i] === "number"));
    let by = null;
    let sign = 1;
    const compare = (a, b) => {
      const [left, right] = [a[by], b[by]];
      if (left === right) return 0;
      if (left === null || right === null) return left === null ? 1 : -1;
      return sign * (left < right ? -1 : 1);
    };
    const redraw = () => {
      const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let rows = data.rows.filter((row) => {
        const text = row.join(" ").toLowerCase();
        return wanted.every((word) => text.includes(word));
      });
      if (by !== null) rows = [...rows].sort(compare);
      body.replaceChildren(...rows.map((row) => {
        const line = document.createElement("tr");
        row.forEach((value, i) => add(line, "td", {
          textContent: value === null ? "" : String(value), className: is_number[i] ? "number" : "",
        }));
        return line;
      }));
      count.textContent = `${rows.length} of ${data.rows.length} trials`;
      [...head.children].forEach((cell, i) => {
        cell.ariaSort = i === by ? (sign > 0 ? "ascending" : "descending") : "none";
        cell.firstChild.textContent = data.columns[i] + (i === by ? (sign > 0 ? " ▲" : " ▼") : "");
      });
    };
    data.columns.forEach((name, i) => {
      const cell = add(head, "th", { className: is_number[i] ? "number" : "" });
      add(cell, "button", { textContent: name }).addEventListener("click", () => {
        sign = by === i ? -sign : 1;
        by = i;
        redraw();
      });
    });
    filter.addEventListener("input", redraw);
    redraw();
  },
};

function coloured(index, grey = false) {
  const color = grey ? "#888" : COLORS[index % COLORS.length];
  return { line: { color, width: 1.5 }, marker: { color, symbol: "circle-open", size: 7 } };
}

function show_sample(net, index, canvas, words) {
  const image = net.images[index];
  const [height, width] = [image.length, image[0].length];
  const most = Math.max(1, ...image.flat(2));
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  image.flat().forEach((channels, i) => {
    const color = channels.length === 3 ? channels : [channels[0], channels[0], channels[0]];
    pixels.data.set([...color.map((value) => value / most * 255), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  words.textContent = `training example ${net.indices[index]}: ${net.classes[net.labels[index]]},`
    + ` answered ${net.classes[net.predictions[index]]}`;
}

for (const place of document.querySelectorAll(".chart")) {
  KINDS[place.dataset.kind](place, JSON.parse(place.querySelector("script").textContent));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((f) => f()));
document.documentElement.dataset.drawn = "yes";
