// @ts-check
// The budget: which configuration is best within the limit that the slider shows. Every answer was computed with the report, by
// what `report --budget` uses; the slider's positions are the limits at which it can change.

/**
 * @typedef {object} Step One limit and what it buys.
 * @property {number} limit
 * @property {string} shown the limit with its unit
 * @property {string} picked key of the configuration in the charts; "" if none fits
 * @property {string} sentence
 */

const metric = /** @type {HTMLSelectElement | null} */ (document.getElementById("budget_metric"));
const slider = /** @type {HTMLInputElement | null} */ (document.getElementById("budget_limit"));

/** @type {Record<string, Step[]>} by metric, the tightest limit first */
const budgets = JSON.parse(document.getElementById("budgets")?.textContent || "{}");

/** Show the answer at the slider's position. */
async function recommend() {
  if (!metric || !slider) return;
  const step = budgets[metric.value][Number(slider.value)];
  slider.setAttribute("aria-valuetext", step.shown);
  slider.dataset.limit = String(step.limit);
  slider.dataset.picked = step.picked;
  const shown = document.getElementById("budget_shown"), pick = document.getElementById("budget_pick");
  if (shown) shown.textContent = step.shown;
  if (pick) pick.textContent = step.sentence;
  const drawn = {picked: step.picked, ...Object.fromEntries(
    Object.keys(budgets).map((name) => [`limit_${name}`, name === metric.value ? step.limit : 0]))};
  for (const [name, value] of Object.entries(drawn)) chosen.set(name, value);
  for (const [name, value] of Object.entries(drawn)) await choose(name, value);
}

/** Offer the limits of the chosen metric, the loosest first. */
function offer() {
  if (!metric || !slider) return;
  slider.max = String(budgets[metric.value].length - 1);
  slider.value = slider.max;
  return recommend();
}

metric?.addEventListener("change", offer);
slider?.addEventListener("input", recommend);
