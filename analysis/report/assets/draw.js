// @ts-check
// Draws the charts, and keeps them in step with the selectors and the reader's light or dark setting.

/**
 * @typedef {object} View A drawn chart, as in the Vega View API.
 * @property {(name: string, value: unknown) => View} signal
 * @property {() => Promise<View>} runAsync
 * @property {() => void} finalize
 * @property {(filter: object) => {signals: Record<string, unknown>}} getState
 * @property {(form: string, scale: number) => Promise<string>} toImageURL
 * @property {(colour: string | null) => View} background
 */

const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** @type {Map<Element, View>} drawn charts by their place */
const views = new Map();

/** @type {Map<string, unknown>} values of chart parameters that no selector holds */
const chosen = new Map();

/** Vega's colours and fonts for a light or dark page.
 * @param {boolean} isDark */
function look(isDark) {
  const text = isDark ? "#e6e7ea" : "#1c1e21", line = isDark ? "#3a3f47" : "#d9dce1";
  return {
    background: null, font: "system-ui, Roboto, Arial, sans-serif", view: {stroke: null}, text: {color: text},
    axis: {labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line,
           labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 0},
    legend: {labelColor: text, titleColor: text, labelLimit: 0, titleFontWeight: "normal",
             layout: {top: {anchor: "start", direction: "vertical"}}},
    title: {color: text},
  };
}

/** The text of an element that holds it packed: gzip in base64.
 * @param {HTMLElement | null} element */
async function unpack(element) {
  const packed = Uint8Array.from(atob(String(element?.textContent)), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** Unpack and run the chart libraries; unpacked they would be most of the page. */
async function load() {
  const script = document.createElement("script");
  script.textContent = await unpack(document.getElementById("libraries"));
  document.head.append(script);
}

/** Draw every chart again, with the values that are chosen now. */
async function draw() {
  for (const [place, view] of views) { view.finalize(); views.delete(place); }
  for (const place of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".chart"))) {
    const source = document.getElementById(String(place.dataset.spec));
    const spec = JSON.parse(source && "packed" in source.dataset ? await unpack(source) : String(source?.textContent));
    for (const param of spec.params || []) {
      const control = /** @type {HTMLSelectElement | null} */ (document.getElementById(param.name));
      if (chosen.has(param.name)) param.value = chosen.get(param.name);
      else if (control) param.value = control.value;
    }
    const label = String(place.getAttribute("aria-label"));
    const shown = await /** @type {any} */ (window).vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config: look(dark.matches),
      tooltip: {theme: dark.matches ? "dark" : "light"},
    });
    place.setAttribute("role", "img"); // Vega has set a role and a label of its own
    place.setAttribute("aria-label", label);
    place.removeAttribute("aria-roledescription");
    views.set(place, shown.view);
  }
  document.documentElement.dataset.drawn = String(views.size);
}

/** Set a parameter in every chart that has it.
 * @param {string} name
 * @param {unknown} value */
async function choose(name, value) {
  for (const view of views.values())
    if (name in view.getState({data: () => false, signals: () => true}).signals)
      await view.signal(name, value).runAsync();
}

for (const control of /** @type {NodeListOf<HTMLSelectElement>} */ (document.querySelectorAll(".choose select")))
  control.addEventListener("change", () => choose(control.id, control.value));

for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll(".save button")))
  button.addEventListener("click", async () => {
    const place = /** @type {HTMLElement} */ (button.closest("figure")?.querySelector(".chart"));
    const view = views.get(place), form = String(button.dataset.form);
    if (!view) return;
    view.background(dark.matches ? "#16181c" : "#ffffff");
    const link = document.createElement("a");
    link.href = await view.toImageURL(form, form === "png" ? 2 : 1);
    link.download = `${place.dataset.name}.${form}`;
    link.click();
    view.background(null);
  });
