"use strict";

// Maps of training loss over a setting and depth, one for each case, on one scale of colours.

KINDS.maps = (place, data) => {
  const finite = data.maps.flatMap((map) => map.loss.flat()).filter((loss) => loss !== null && loss > 0);
  const [low, high] = [Math.min(...finite), Math.min(data.most, Math.max(...finite))].map(Math.log10);
  const grid = add(place, "div", { className: "plots maps" });
  const plots = data.maps.map(() => add(grid, "div", { className: "plot map" }));
  const middle = (edges, log) => edges.slice(1).map((edge, i) => (log ? Math.sqrt(edge * edges[i]) : (edge + edges[i]) / 2));
  onUpdate(() => data.maps.forEach((map, number) => {
    const columns = middle(map.x, data.log);
    const where = (i, j) => `${map.depths[i]} layers, ${data.x.toLowerCase()} ${Number(columns[j].toPrecision(2))}`;
    const words = map.loss.map((row, i) => row.map((loss, j) => `${where(i, j)}: ${loss === null ? (map.diverged[i][j] ? "diverged" : "not drawn") : short(loss, 3)}`));
    const shared = { x: map.x, y: map.y, type: "heatmap", text: words, hovertemplate: "%{text}<extra></extra>" };
    const traces = [
      { ...shared, z: map.diverged.map((row) => row.map((value) => (value ? 1 : null))), showscale: false, zmin: 0, zmax: 1, colorscale: [[0, css("--soft")], [1, css("--soft")]] },
      {
        ...shared, z: map.loss.map((row) => row.map((loss) => (loss === null ? null : Math.log10(Math.max(loss, 10 ** low))))),
        colorscale: SCALES.loss, zmin: low, zmax: high, colorbar: { ...colorbar("log10 of training loss") },
      },
    ];
    if (data.guideline.length) {
      traces.push({
        x: data.guideline.map(([, bias]) => bias), y: data.guideline.map(([depth]) => depth), mode: "lines+markers",
        line: { color: css("--text"), width: 2 }, marker: { size: 7, color: css("--back"), line: { color: css("--text"), width: 2 } },
        hovertemplate: "the paper's guideline: %{x} at %{y} layers<extra></extra>",
      });
    }
    draw(plots[number], traces, {
      title: { text: escaped(map.title), font: { size: 13 }, x: 0, xref: "paper", xanchor: "left" },
      xaxis: { title: { text: data.x }, type: data.log ? "log" : "linear", showgrid: false, dtick: data.log ? 1 : undefined },
      yaxis: { title: { text: "Layers" }, type: "log", showgrid: false, tickvals: map.depths, ticktext: map.depths.map(String) },
      shapes: data.copied.map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: css("--text"), width: 1, dash: "dash" } })),
    });
  }));
};
