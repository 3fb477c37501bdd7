"use strict";
// Draws every chart from the JSON beside it, in the page's own colours.
(() => {
  const PRINT_WIDTH_PX = 680;
  const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll("script[data-for]")].map((script) => ({
    element: document.getElementById(script.dataset.for),
    figure: JSON.parse(script.textContent),
  }));
  const config = {
    responsive: true,
    displaylogo: false,
    scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  const pageColors = () => {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return {
      "font.color": read("--ink"),
      "hoverlabel.bgcolor": read("--paper"),
      "hoverlabel.bordercolor": read("--line"),
      "hoverlabel.font.color": read("--ink"),
    };
  };
  const relayoutAll = (update) => charts.forEach(({ element }) => Plotly.relayout(element, update));

  charts.forEach(({ element, figure }) => {
    // On a phone a drag must scroll the page, not zoom the chart.
    const isTouch = window.matchMedia("(pointer: coarse)").matches;
    const layout = { ...figure.layout, dragmode: isTouch ? false : "zoom" };
    Plotly.newPlot(element, figure.data, layout, config);
  });
  relayoutAll(pageColors());

  darkScheme.addEventListener("change", () => relayoutAll(pageColors()));
  window.addEventListener("beforeprint", () => relayoutAll({ ...pageColors(), width: PRINT_WIDTH_PX }));
  window.addEventListener("afterprint", () => relayoutAll({ ...pageColors(), width: null, autosize: true }));
})();
