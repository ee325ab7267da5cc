// Draws the page: the theme, the navigation, then one chart after the other.

applyTheme();
const theme = document.querySelector("select[name=theme]");
theme.value = State.get("theme", "auto");
theme.addEventListener("change", () => { State.set("theme", theme.value, "auto"); applyTheme(); update(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { applyTheme(); update(); });

const links = [...document.querySelectorAll("nav a")];
for (const link of links) {
  // The hash holds the state, so it cannot name a section.
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const link = links.find((other) => other.getAttribute("href") === `#${entry.target.id}`);
    link.classList.toggle("seen", entry.isIntersecting);
  }
}, { rootMargin: "-80px 0px -40% 0px" });
document.querySelectorAll("section").forEach((section) => seen.observe(section));

if (TRIALS) toolbar(document.getElementById("toolbar"));
const waiting = [...document.querySelectorAll(".chart")];
// A chart at a time, so that the page can be read and scrolled in the meantime.
(function next() {
  const place = waiting.shift();
  if (!place) {
    document.documentElement.dataset.drawn = "yes";
    return;
  }
  KINDS[place.dataset.kind](place, JSON.parse(place.querySelector("script").textContent));
  setTimeout(next);
})();
