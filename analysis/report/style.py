"""Style sheet, drawing script and content security policy of the report."""

from __future__ import annotations

# The policy forbids all network access. Vega compiles its expressions, hence unsafe-eval.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c1e21; --quiet: #5a6068; --line: #d9dce1; --soft: #f4f5f7;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --text: #e6e7ea; --quiet: #a3a9b3; --line: #3a3f47; --soft: #20242a; --mark: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 74rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
ul { padding-left: 1.2rem; max-width: 60rem; }
.answer { border-left: 4px solid var(--mark); padding: .25rem 0 .25rem 1rem; font-size: 1.05rem; }
.note, caption, figcaption { color: var(--quiet); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0 0; font-size: .875rem; }
a { color: var(--mark); }
.choose { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap; gap: .4rem 1rem; padding: .5rem 0;
  background: var(--ground); border-bottom: 1px solid var(--line); font-size: .875rem; }
.choose label { color: var(--quiet); display: flex; gap: .4rem; align-items: baseline; min-width: 0; }
.choose select { max-width: 16rem; font: inherit; color: var(--text); background: var(--soft);
  border: 1px solid var(--line); border-radius: 4px; padding: .1rem .3rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.grid > :last-child:nth-child(odd) { grid-column: 1 / -1; }
figure { margin: .75rem 0; min-width: 0; }
figcaption { font-weight: 600; display: flex; flex-wrap: wrap; gap: 0 .75rem; align-items: baseline; }
.chart { display: block; width: 100%; min-width: 0; }
.wide { overflow-x: auto; }
.save { font-weight: 400; font-size: .8rem; white-space: nowrap; }
button.save, .save a { border: 0; background: none; color: var(--mark); cursor: pointer; padding: 0; font-size: .8rem;
  text-decoration: underline; }
.scroll { overflow: auto; max-height: 32rem; margin: .5rem 0 0; border: 1px solid var(--line); border-radius: 4px; }
.scroll:focus-visible { outline: 2px solid var(--mark); }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
caption { text-align: left; padding: .4rem .6rem; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--soft); white-space: nowrap; z-index: 1; }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; white-space: nowrap; position: sticky; left: 0; background: var(--ground); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.absent { color: var(--quiet); font-style: italic; }
td { white-space: nowrap; }
td.text { min-width: 12rem; max-width: 28rem; white-space: normal; overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .3rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
code { font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
#vg-tooltip-element { max-width: 90vw; }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  tbody th { position: static; } .choose select { max-width: 7.5rem; }
}
@media print { .choose, .save { display: none; } .scroll { max-height: none; } }
"""

DRAW = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function look(isDark) {
  const text = isDark ? "#e6e7ea" : "#1c1e21", line = isDark ? "#3a3f47" : "#d9dce1";
  return {
    background: null, font: "system-ui, Roboto, Arial, sans-serif", view: {stroke: null},
    axis: {labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 11},
    legend: {labelColor: text, titleColor: text}, title: {color: text}, text: {color: text},
  };
}
const views = new Map();
async function draw() {
  for (const [place, view] of views) { view.finalize(); views.delete(place); }
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    for (const param of spec.params || []) {
      const control = document.getElementById(param.name);
      if (control) param.value = control.value;
    }
    const shown = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config: look(dark.matches),
      tooltip: {theme: dark.matches ? "dark" : "light"},
    });
    views.set(place, shown.view);
  }
  document.documentElement.dataset.drawn = views.size;
}
for (const control of document.querySelectorAll(".choose select"))
  control.addEventListener("change", async () => {
    for (const view of views.values())
      if (control.id in view.getState({data: () => false, signals: () => true}).signals)
        await view.signal(control.id, control.value).runAsync();
  });
for (const button of document.querySelectorAll("button.save"))
  button.addEventListener("click", async () => {
    const place = button.closest("figure").querySelector(".chart"), view = views.get(place);
    view.background(dark.matches ? "#16181c" : "#ffffff");
    const link = document.createElement("a");
    link.href = await view.toImageURL(button.dataset.form, button.dataset.form === "png" ? 2 : 1);
    link.download = `${place.dataset.name}.${button.dataset.form}`;
    link.click();
    view.background(null);
  });
let drawing = draw();
dark.addEventListener("change", () => { drawing = drawing.then(draw); });
"""
