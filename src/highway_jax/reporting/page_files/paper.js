// Charts beside the paper: curves with the paper's values, and the inside of trained nets.

KINDS.lines = (place, data) => {
  const group = (line) => line.color ?? line.name.replace(/, paper$/, "");
  const groups = [...new Set(data.lines.map(group))];
  const plot = add(place, "div", { className: "plot" });
  const keys = add(place, "div", { className: "legend" });
  const state = `lines${[...document.querySelectorAll(".chart")].indexOf(place)}`;
  const positive = data.lines.every((line) => line.y.every((value) => value === null || value > 0));
  const tint = (name) => (name === "authors' log" ? css("--soft") : color(groups.filter((g) => g !== "authors' log").indexOf(name)));
  onUpdate(() => {
    const hidden = legend(keys, groups.map((label) => ({ label, color: tint(label) })), state);
    draw(plot, data.lines.filter((line) => !hidden.has(group(line))).map((line) => ({
      x: line.x, y: line.y, name: line.name,
      mode: line.marks ? "markers" : line.x.length > 1 ? "lines" : "markers",
      line: { width: 2, color: tint(group(line)), dash: line.group === "plain" ? "dot" : "solid" },
      marker: { symbol: line.marks ? "circle-open" : "circle", size: 8, color: tint(group(line)) },
      hovertemplate: `${escaped(line.name)}<br>%{y:.4g} at %{x}<extra></extra>`,
    })), {
      xaxis: { title: { text: data.x } },
      yaxis: { title: { text: data.y }, ...valueAxis(data.lines.flatMap((line) => line.y), positive) },
    });
  });
};

// Returns the nested lists of an array that Python has packed; the largest step stands for no value.
function unpacked(value) {
  if (!value?.packed) return value;
  const bytes = Uint8Array.from(atob(value.packed), (character) => character.charCodeAt(0));
  const steps = value.bits === 8 ? bytes : new Uint16Array(bytes.buffer);
  const none = 2 ** value.bits - 1;
  const digits = 10 ** value.digits;
  const numbers = Array.from(steps, (step) => (step === none ? null : Math.round((value.low + step * value.step) * digits) / digits));
  const nest = (list, shape) => (shape.length < 2 ? list : nest(
    Array.from({ length: list.length / shape.at(-1) }, (_, i) => list.slice(i * shape.at(-1), (i + 1) * shape.at(-1))),
    shape.slice(0, -1),
  ));
  return nest(numbers, value.shape);
}

// A few outliers would use up the range of colours.
function middle(values) {
  const sorted = values.flat().filter((value) => value !== null).sort((a, b) => a - b);
  return [0.005, 0.995].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
}

KINDS.inside = (place, data) => {
  const nets = data.map((net) => Object.fromEntries(Object.entries(net).map(([name, value]) => [name, unpacked(value)])));
  const controls = add(place, "div", { className: "controls" });
  const which = choice(controls, "net", nets.map((net) => net.title), "net");
  const ofClass = choice(controls, "class", nets[0].classes, "class");
  const sample = slider(controls, "example", { min: 1, max: nets[0].gates.length, step: 1 }, "example", 1);
  const row = slider(controls, "layer", { min: 1, max: nets[0].after.length, step: 1 }, "layer", 1);
  const picture = add(controls, "canvas", { className: "sample" });
  const words = add(controls, "span");
  const maps = add(place, "div", { className: "plots maps" });
  const views = {
    "biases after training": (net) => [net.after, SCALES.bias, ...middle(net.after)],
    "mean gate outputs": (net) => [net.mean, SCALES.gate, 0, 1],
    "gate outputs of the example": (net) => [net.gates[sample.value - 1], SCALES.gate, 0, 1],
    "block outputs of the example": (net) => [net.outputs[sample.value - 1], SCALES.output],
    "mean gates of the class, minus those of all": (net) => {
      const values = net.difference[net.classes.indexOf(ofClass.value)];
      const limit = Math.max(...middle(values).map(Math.abs));
      return [values, diverging(), -limit, limit];
    },
    "change of biases in training": (net) => {
      const values = net.after.map((line, i) => line.map((value, j) => (value === null ? null : value - net.before[i][j])));
      const limit = Math.max(...middle(values).map(Math.abs));
      return [values, diverging(), -limit, limit];
    },
  };
  const plots = Object.fromEntries(Object.keys(views).map((name) => [name, add(maps, "div", { className: "plot map" })]));
  const more = add(place, "div", { className: "plots maps" });
  const layer = add(more, "div", { className: "plot" });
  const both = add(more, "div");
  const lesions = add(both, "div", { className: "plot" });
  const kinds = add(both, "div", { className: "legend" });
  const pairs = add(more, "div", { className: "plot" });
  let before = nets[0].title;
  onUpdate(() => {
    const net = nets.find((other) => other.title === which.value);
    if (ofClass.options.length !== net.classes.length || before !== net.title) {
      const wanted = State.get("class", net.classes[0]);
      ofClass.replaceChildren();
      net.classes.forEach((name) => add(ofClass, "option", { value: name, textContent: name }));
      ofClass.value = net.classes.includes(wanted) ? wanted : net.classes[0];
      before = net.title;
    }
    sample.max = net.gates.length;
    row.max = net.after.length;
    showSample(net, sample.value - 1, picture, words);
    const chosen = Number(row.value);
    for (const [name, view] of Object.entries(views)) {
      const [values, scale, low, high] = view(net);
      draw(plots[name], [{
        z: values, x0: 1, y0: 1, type: "heatmap", colorscale: scale, zmin: low, zmax: high, colorbar: colorbar(),
        hovertemplate: "layer %{y}, unit %{x}: %{z}<extra></extra>",
      }], {
        title: heading(name), xaxis: { title: { text: "Unit" }, showgrid: false },
        yaxis: { title: { text: "Layer" }, autorange: "reversed", showgrid: false },
        shapes: [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: chosen - 0.5, y1: chosen + 0.5, line: { color: css("--accent"), width: 1 } }],
      }, (point) => {
        row.value = point.y;
        row.dispatchEvent(new Event("input"));
      });
    }
    draw(layer, [["mean", net.mean], ["the example", net.gates[sample.value - 1]]].map(([name, values], i) => ({
      y: values[chosen - 1], x0: 1, type: "bar", name, marker: { color: color(i) },
      hovertemplate: `unit %{x}, ${name}: %{y}<extra></extra>`,
    })), {
      title: heading(`gate outputs of layer ${chosen}`), xaxis: { title: { text: "Unit" } },
      yaxis: { range: [0, 1] }, showlegend: true, legend: { orientation: "h", y: -0.22 },
    });
    const hidden = legend(kinds, Object.keys(net.lesions).map((label, i) => ({ label, color: color(i) })), "lesions");
    draw(lesions, [
      ...Object.entries(net.lesions).map(([kind, errors], i) => ({
        y: errors, x0: 1, name: kind, mode: "lines+markers", line: { width: 1, color: color(i) },
        marker: { size: 5, color: color(i) }, visible: !hidden.has(kind),
        hovertemplate: `layer %{x} ${kind}: %{y} %<extra></extra>`,
      })),
      {
        y: net.lesions.closed.map(() => net.intact), x0: 1, name: "intact net", mode: "lines",
        line: { dash: "dash", width: 1, color: css("--text") }, hovertemplate: "intact net: %{y:.3g} %<extra></extra>",
      },
    ], {
      title: heading("error with gates of layers forced"), xaxis: { title: { text: "Layer" } },
      yaxis: { title: { text: "Training error (%)" }, rangemode: "tozero" },
    });
    pairs.hidden = net.pairs === null;
    if (net.pairs !== null) {
      draw(pairs, [{
        z: net.pairs, x0: 1, y0: 1, type: "heatmap", colorscale: SCALES.error, colorbar: colorbar(),
        hovertemplate: "layers %{x} and %{y} closed: %{z} %<extra></extra>",
      }], {
        title: heading("two layers closed: training error (%)"), xaxis: { title: { text: "Layer" }, showgrid: false },
        yaxis: { title: { text: "Layer" }, autorange: "reversed", showgrid: false },
      });
    }
  });
};

function showSample(net, index, canvas, words) {
  const image = net.images[index];
  const [height, width] = [image.length, image[0].length];
  const values = image.flat(2);  // Too many for the arguments of a function.
  const least = values.reduce((a, b) => Math.min(a, b), 0);
  const range = values.reduce((a, b) => Math.max(a, b), 1e-9) - least;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  image.flat().forEach((channels, i) => {
    const shade = channels.length === 3 ? channels : [channels[0], channels[0], channels[0]];
    pixels.data.set([...shade.map((value) => ((value - least) / range) * 255), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  words.textContent = `training example ${net.indices[index]}: class ${net.classes[net.labels[index]]},`
    + ` predicted ${net.classes[net.predictions[index]]}`;
}
