// @ts-check
// The budget: which configuration is best within the limit that the slider shows. Every answer was computed with the report, by
// what `report --budget` uses; the slider's positions are the limits at which it can change.

/**
 * @typedef {object} Step One limit and what it buys.
 * @property {number} limit
 * @property {string} shown the limit with its unit
 * @property {string} picked key of the configuration in the charts; "" if none fits
 * @property {string} sentence
 * @property {string} cheaper what a tighter limit would buy; "" if nothing
 */

const hardware = /** @type {HTMLSelectElement | null} */ (document.getElementById("budget_hardware")); // where there are several
const metric = /** @type {HTMLSelectElement | null} */ (document.getElementById("budget_metric"));
const slider = /** @type {HTMLInputElement | null} */ (document.getElementById("budget_limit"));

/** @type {Record<string, Record<string, Step[]>>} by hardware and metric, the tightest limit first */
const budgets = JSON.parse(document.getElementById("budgets")?.textContent || "{}");

/** The hardware that the budget is for. */
const where = () => hardware ? hardware.value : Object.keys(budgets)[0];

/** Show the answer at the slider's position. */
async function recommend() {
  if (!metric || !slider) return;
  const step = budgets[where()][metric.value][Number(slider.value)];
  slider.setAttribute("aria-valuetext", step.shown);
  slider.dataset.limit = String(step.limit);
  slider.dataset.picked = step.picked;
  for (const [part, text] of [["shown", step.shown], ["pick", step.sentence], ["cheaper", step.cheaper]]) {
    const place = document.getElementById("budget_" + part);
    if (place) place.textContent = text;
  }
  const drawn = {picked: step.picked, on_hardware: where(), ...Object.fromEntries(
    [...metric.options].map((option) => [`limit_${option.value}`, option.value === metric.value ? step.limit : 0]))};
  for (const [name, value] of Object.entries(drawn)) chosen.set(name, value);
  for (const [name, value] of Object.entries(drawn)) await choose(name, value);
}

/** Fit the controls to the chosen hardware and metric: a metric that was measured there, and its limits. */
function fit() {
  if (!metric || !slider) return;
  const known = budgets[where()];
  for (const option of metric.options) option.hidden = option.disabled = !(option.value in known);
  if (!(metric.value in known)) metric.value = Object.keys(known)[0];
  slider.max = String(known[metric.value].length - 1); // lowers the value to it
  slider.hidden = slider.max === "0";
}

/** Offer the limits of what was chosen, the loosest first. */
function offer() {
  fit();
  if (slider) slider.value = slider.max;
  return recommend();
}

fit(); // a browser may have restored what was chosen before
hardware?.addEventListener("change", offer);
metric?.addEventListener("change", offer);
slider?.addEventListener("input", recommend);
