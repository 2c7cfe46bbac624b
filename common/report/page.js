// Draws the figures one after the other, each as wide as its place, again when the width changes.
(function () {
  "use strict";
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const config = JSON.parse(document.getElementById("config").textContent);
  const places = Array.from(document.querySelectorAll(".chart[data-figure]"));

  function fitted(spec, width) {
    const copy = JSON.parse(JSON.stringify(spec));
    copy.config = JSON.parse(JSON.stringify(config));
    copy.config.legend.columns = Math.max(1, Math.floor(width / 125));
    copy.config.legend.labelLimit = Math.min(260, Math.round(width * 0.45));
    copy.config.axis.labelLimit = Math.max(110, Math.round(width * 0.34));
    if (copy.facet && copy.spec) {
      // Vega-Lite cannot stretch small multiples: as many as fit, sharing the width evenly.
      const columns = width < 560 ? 1 : copy.columns || 2;
      copy.columns = columns;
      copy.spec.width = Math.max(120, (width - 64) / columns - 36);
    }
    return copy;
  }

  async function draw(place) {
    const spec = fitted(specs[place.dataset.figure], place.clientWidth);
    try {
      if (place.view) place.view.finalize();
      place.view = await window.vegaEmbed(place, spec, { actions: false, renderer: "svg" });
      place.dataset.drawn = "yes";
    } catch (error) {
      place.dataset.drawn = "failed";
      place.textContent = "This chart could not be drawn: " + error.message;
      place.classList.add("failed");
    }
    place.drawnAt = place.clientWidth;
  }

  async function drawAll() {
    for (const place of places) {
      if (place.drawnAt !== place.clientWidth) await draw(place);
    }
    document.documentElement.dataset.ready = "yes";
  }

  let waiting = 0;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  // A link into a folded run opens it.
  function unfold() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  window.addEventListener("hashchange", unfold);
  unfold();
  drawAll();
})();
