// Follows runs in training: asks the server for a newer page and puts it in place of this one.

const SECONDS = 2;

async function follow() {
  const box = document.querySelector("input[name=live]");
  box.checked = State.get("live", "on") === "on";
  box.addEventListener("change", () => State.set("live", box.checked ? "on" : "off", "on"));
  let dragging = false;
  addEventListener("pointerdown", () => { dragging = true; }, true);
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { dragging = false; }, true);
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * SECONDS));
    if (box.checked && !document.hidden && !dragging) await ask();
  }
}

async function ask() {
  const words = document.querySelector(".live output");
  try {
    const { live } = document.documentElement.dataset;
    const answer = await fetch("/", { headers: { "If-None-Match": live }, cache: "no-store" });
    const text = await answer.text();
    if (answer.status === 200) {
      replacePage(new DOMParser().parseFromString(text, "text/html"));
      words.textContent = `updated ${new Date().toLocaleTimeString()}`;
    } else if (answer.status !== 304) {
      words.textContent = `not updated: ${text}`;
    }
  } catch (error) {
    words.textContent = `not updated: ${error.message}`;
  }
}

// All choices are in the address; what is only seen, as the scrolled part of a table, is kept here.
function replacePage(page) {
  const scrolled = [".trials", ".chart .legend"].flatMap((name) => [...document.querySelectorAll(name)].map(
    ({ scrollLeft, scrollTop }, i) => [name, i, { scrollLeft, scrollTop }],
  ));
  const open = document.querySelector(".chooser")?.open;
  const { name, selectionStart } = document.activeElement;
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.purge(plot));
  const main = page.querySelector("main");
  main.style.minHeight = `${document.querySelector("main").offsetHeight}px`;
  for (const part of ["h1", "nav", "main"]) document.querySelector(part).replaceWith(page.querySelector(part));
  document.title = page.title;
  document.documentElement.dataset.live = page.documentElement.dataset.live;
  redraws.length = 0;
  readTrials(page);
  prepare().forEach(drawChart);
  main.style.minHeight = "";
  scrolled.forEach(([selector, i, ends]) => Object.assign(document.querySelectorAll(selector)[i] ?? {}, ends));
  if (open) document.querySelector(".chooser").open = true;
  const focused = name && document.querySelector(`main [name="${name}"]`);
  focused?.focus({ preventScroll: true });
  if (focused?.type === "search") focused.setSelectionRange(selectionStart, selectionStart);
}
