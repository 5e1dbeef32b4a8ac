// @ts-check
// Follows a run: polls its status, and puts a newer page in the place of the one that is shown without moving its reader.
// A new page is loaded and drawn behind the shown one. Then it takes over what the reader has chosen, opened and scrolled to.

const POLL_MS = 2000, TIMEOUT_MS = 10000, MOST_DRAWING_MS = 60000;

/** @type {HTMLIFrameElement | null} */
let shown = null;
let version = "", loading = false;
let answeredMs = 0;

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const header = /** @type {HTMLElement} */ (document.querySelector("header"));
const clock = (/** @type {number} */ seconds) => new Date(1000 * seconds).toLocaleTimeString();

/** Set a text only where it changes: a screen reader reads each change of the headline. */
function say(/** @type {string} */ id, /** @type {string} */ text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

/** Ask for the status, and show it. */
async function poll() {
  try {
    const answer = await fetch("status.json", {signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store"});
    const status = await answer.json();
    answeredMs = Date.now();
    header.dataset.state = status.state;
    document.title = `${status.study}: ${status.state}`;
    say("headline", status.headline);
    say("lines", [...status.sizes, ...status.stages].join(" · "));
    say("note", status.note);
    const times = [];
    if (status.page) times.push(`Page as of ${clock(status.page.of_s)}.`);
    if (status.status_s) times.push(`Status as of ${clock(status.status_s)}.`);
    say("times", times.join(" "));
    element("alone").hidden = !status.page;
    if (status.page && status.page.version !== version && !loading) replace(status.page.version);
  } catch {
    lost();
  }
  setTimeout(poll, POLL_MS);
}

/** The server does not answer: what is shown stays, and is marked as out of date. */
function lost() {
  const over = ["ended", "interrupted", "failed"].includes(String(header.dataset.state));
  const since = answeredMs ? ` since ${clock(answeredMs / 1000)}` : "";
  if (!over) header.dataset.state = "lost";
  say("note", over ? "No longer served: this page will not change any more." : "");
  if (!over) say("headline", `No answer from the watching command${since}: what is shown may be out of date.`);
}

/** Put a newer page in the place of the shown one; if that fails, the next status asks for it again. */
async function replace(/** @type {string} */ wanted) {
  loading = true;
  const next = document.createElement("iframe");
  try {
    await show(next, wanted);
    version = wanted;
  } catch {
    next.remove();
  }
  loading = false;
}

/** Load a page behind the shown one, and show it once it is drawn and its reader's hands are off. */
async function show(/** @type {HTMLIFrameElement} */ next, /** @type {string} */ wanted) {
  next.title = "Report";
  next.className = "waiting";
  next.src = `report.html?v=${encodeURIComponent(wanted)}`;
  const loaded = new Promise((resolve) => next.addEventListener("load", resolve, {once: true}));
  element("pages").append(next);
  await loaded;
  await until(() => drawn(next), MOST_DRAWING_MS);
  if (shown) {
    const before = shown;
    await until(() => !busy(before), MOST_DRAWING_MS);
    await take(view(before), view(next));
    next.className = "";
    if (document.activeElement === before) next.focus({preventScroll: true});
    before.remove();
  }
  next.className = "";
  const page = view(next);
  page.addEventListener("pointerdown", () => { next.dataset.held = "yes"; }, true);
  page.addEventListener("pointerup", () => { delete next.dataset.held; }, true);
  page.addEventListener("pointercancel", () => { delete next.dataset.held; }, true);
  shown = next;
}

const view = (/** @type {HTMLIFrameElement} */ frame) => /** @type {Window & typeof globalThis} */ (frame.contentWindow);

function drawn(/** @type {HTMLIFrameElement} */ frame) {
  const page = view(frame).document;
  return !page.querySelector(".chart") || Number(page.documentElement.dataset.drawn) > 0;
}

/** Whether the reader drags the slider or selects text. */
const busy = (/** @type {HTMLIFrameElement} */ frame) =>
  frame.dataset.held === "yes" || view(frame).getSelection()?.isCollapsed === false;

async function until(/** @type {() => boolean} */ holds, /** @type {number} */ mostMs) {
  for (const start = Date.now(); !holds() && Date.now() - start < mostMs;) await new Promise((r) => setTimeout(r, 50));
}

/** Give the new page what the reader did to the old one. */
async function take(/** @type {Window & typeof globalThis} */ from, /** @type {Window & typeof globalThis} */ to) {
  for (const old of from.document.querySelectorAll("select")) {
    const select = /** @type {HTMLSelectElement | null} */ (to.document.getElementById(old.id));
    if (!select || !chosen(old) || ![...select.options].some((option) => option.value === old.value)) continue;
    select.value = old.value;
    select.dispatchEvent(new to.Event("change"));
  }
  slide(from, to);
  const open = new Set([...from.document.querySelectorAll("details[open]")].map(named));
  for (const details of to.document.querySelectorAll("details")) details.open = open.has(named(details));
  await new Promise((resolve) => setTimeout(resolve, 150)); // charts follow the selectors
  const focus = from.document.activeElement?.id;
  if (focus) to.document.getElementById(focus)?.focus({preventScroll: true});
  scroll(from, to);
}

/** Whether a selector is not where the page put it: what nobody chose follows the newer page. */
function chosen(/** @type {HTMLSelectElement} */ select) {
  const preset = [...select.options].findIndex((option) => option.defaultSelected);
  return select.selectedIndex !== Math.max(0, preset);
}

/** A folded part by its section and summary. */
const named = (/** @type {Element} */ details) =>
  `${details.closest("section")?.id ?? ""} ${details.querySelector("summary")?.textContent}`;

/** The limits of the budget by hardware and metric, the tightest first. */
const budgets = (/** @type {Window} */ page) => JSON.parse(page.document.getElementById("budgets")?.textContent || "{}");

/** A budget that was set keeps its hardware, metric and limit: the first hardware and the steps may be others now. */
function slide(/** @type {Window & typeof globalThis} */ from, /** @type {Window & typeof globalThis} */ to) {
  const old = /** @type {HTMLInputElement | null} */ (from.document.getElementById("budget_limit"));
  const slider = /** @type {HTMLInputElement | null} */ (to.document.getElementById("budget_limit"));
  if (!old || !slider || old.value === old.max) return;
  const value = (/** @type {string} */ id) => /** @type {HTMLSelectElement | null} */ (from.document.getElementById(id))?.value;
  const hardware = value("budget_hardware") ?? Object.keys(budgets(from))[0]; // without a selector there is one
  const metric = value("budget_metric") ?? "";
  const steps = budgets(to)[hardware]?.[metric];
  if (!steps) return;
  for (const [id, wanted] of [["budget_hardware", hardware], ["budget_metric", metric]]) {
    const select = /** @type {HTMLSelectElement | null} */ (to.document.getElementById(id));
    if (!select || select.value === wanted) continue;
    select.value = wanted;
    select.dispatchEvent(new to.Event("change"));
  }
  const within = steps.filter((/** @type {{limit: number}} */ step) => step.limit <= Number(old.dataset.limit)).length;
  slider.value = String(Math.max(0, within - 1));
  slider.dispatchEvent(new to.Event("input"));
}

/** The part at the top of the window stays there, whatever grew above it. */
function scroll(/** @type {Window & typeof globalThis} */ from, /** @type {Window & typeof globalThis} */ to) {
  if (from.scrollY === 0) return;
  const anchor = [...from.document.querySelectorAll("section[id], h3, figure, details")]
    .find((part) => part.id && part.getBoundingClientRect().bottom > 0);
  const same = anchor && to.document.getElementById(anchor.id);
  if (same) to.scrollBy(0, same.getBoundingClientRect().top - anchor.getBoundingClientRect().top);
  else to.scrollTo(0, from.scrollY);
}

poll();
