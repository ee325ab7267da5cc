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
      { ...shared, z: map.diverged.map((row) => row.map((value) => (value ? 1 : null))), showscale: false, zmin: 0, zmax: 1, colorscale: [[0, "#bfbfbf"], [1, "#bfbfbf"]] },
      {
        ...shared, z: map.loss.map((row) => row.map((loss) => (loss === null ? null : Math.log10(Math.max(loss, 10 ** low))))),
        colorscale: SCALES.loss, zmin: low, zmax: high, colorbar: { ...colorbar("log10 of training loss") },
      },
    ];
    // Black on white is seen on every colour of the map, and in both themes.
    const line = (x, y, width, others) => traces.push(
      { x, y, mode: "lines", line: { color: "white", width: width + 2 }, hoverinfo: "skip" },
      { x, y, mode: "lines", ...others, line: { color: "black", width, dash: others.dash } },
    );
    for (const x of data.copied) {
      line([x, x], [map.y[0], map.y.at(-1)], 1.5, { dash: "dash", hovertemplate: "%{x}: a common choice at every depth<extra></extra>" });
    }
    line(data.guideline.map(([, bias]) => bias), data.guideline.map(([depth]) => depth), 2, {
      mode: "lines+markers", marker: { size: 7, color: "white", line: { color: "black", width: 2 } },
      hovertemplate: "the paper's guideline: %{x} at %{y} layers<extra></extra>",
    });
    if (data.rule.length) {
      line(data.rule.map(([, bias]) => bias), data.rule.map(([depth]) => depth), 2, { hovertemplate: "−log(layers): %{x:.1f}<extra></extra>" });
    }
    draw(plots[number], traces, {
      title: heading(escaped(map.title)),
      xaxis: { title: { text: data.x }, type: data.log ? "log" : "linear", range: [map.x[0], map.x.at(-1)].map((x) => (data.log ? Math.log10(x) : x)), showgrid: false, dtick: data.log ? 1 : undefined },
      yaxis: { title: { text: "Layers" }, type: "log", showgrid: false, range: [map.y[0], map.y.at(-1)].map(Math.log10), tickvals: map.depths, ticktext: map.depths.map(String) },
    });
  }));
};
