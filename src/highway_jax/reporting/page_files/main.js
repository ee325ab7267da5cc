// Draws the page: the theme, the navigation, the table of trials, then one chart after the other.

applyTheme();
const theme = document.querySelector("select[name=theme]");
theme.value = State.get("theme", "auto");
theme.addEventListener("change", () => { State.set("theme", theme.value, "auto"); applyTheme(); update(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { applyTheme(); update(); });

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    document.querySelector(`nav a[href="#${target.id}"]`)?.classList.toggle("seen", isIntersecting);
  }
}, { rootMargin: "-80px 0px -40% 0px" });

// Prepares what is in the page, and returns its charts, which are still to be drawn.
function prepare() {
  for (const link of document.querySelectorAll("nav a")) {
    // The hash holds the state, so it cannot name a section.
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.querySelector(link.getAttribute("href")).scrollIntoView();
    });
  }
  document.querySelectorAll("section").forEach((section) => seen.observe(section));
  if (TRIALS) toolbar(document.getElementById("toolbar"));
  return [...document.querySelectorAll(".chart")];
}

function drawChart(place) {
  KINDS[place.dataset.kind](place, JSON.parse(place.querySelector("script").textContent));
}

readTrials(document);
const places = prepare();
const isTable = (place) => place.dataset.kind === "trials";
const charts = places.filter((place) => !isTable(place));
places.filter(isTable).forEach(drawChart);

// The library of the charts is text until the browser has shown the page, which need not wait for it.
function loadLibrary() {
  const library = document.getElementById("library");
  add(document.head, "script", { textContent: library.textContent });
  library.remove();
  drawCharts();
}

// A chart at a time, so that the page can be read and scrolled in the meantime.
function drawCharts() {
  const place = charts.shift();
  if (place) {
    try {
      drawChart(place);
    } catch (error) {  // The other charts can still be drawn.
      add(place, "p", { className: "note", textContent: `This chart cannot be drawn (${error.message}).` });
    }
    setTimeout(drawCharts);
  } else {
    document.documentElement.dataset.drawn = "yes";
    if ("live" in document.documentElement.dataset) follow();
  }
}

if (document.hidden) loadLibrary();
else requestAnimationFrame(() => setTimeout(loadLibrary));
