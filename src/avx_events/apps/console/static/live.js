import { attempt, clock, count, dataView, day, el, emptyNote, facts, get, lost, main, plural, size, Stream } from "./core.js";

const KEPT = 2000; // rows that are kept while the page is paused or filtered
const DRAWN = 100; // rows in the document: what is older goes, so that the page stays as quick as it was

const state = { run: "", after: 0, seen: 0, missed: 0, waiting: [], isPaused: false, chosen: "", turn: 0 };

const list = el("ol", { class: "card list", id: "events", reversed: true, "aria-label": "Events, the newest first" });
const empty = emptyNote("Nothing yet. Events appear here as they are published.");
const detail = el("aside", { class: "card", id: "detail", "aria-label": "One event", tabindex: -1, hidden: true });
const split = el("div", { class: "split" }, el("div", {}, list, empty), detail);
const source = el("span", { class: "chip", id: "source" }, "connecting");
const counter = el("span", { class: "soft", id: "counter" });
const pause = el("button", { type: "button", id: "pause", "aria-pressed": "false", onclick: togglePause }, "Pause");
const clear = el("button", { type: "button", onclick: clearList }, "Clear");
const filters = Object.fromEntries(
  [["type", "Type"], ["topic", "Topic"], ["key", "Key"], ["text", "Text in it"]].map(([name, label]) => [
    name,
    el("input", { id: `filter-${name}`, type: "search", placeholder: "all", "aria-label": label, oninput: filterSoon }),
  ]),
);
const labels = { type: "Type", topic: "Topic", key: "Key", text: "Text in it" };

main.querySelector("h1").replaceWith(
  el("div", { class: "head" }, el("h1", {}, "Live events"), source, el("span", { class: "grow" }), counter, pause, clear),
);
main.append(
  el(
    "div",
    { class: "filters", role: "search" },
    Object.entries(filters).map(([name, input]) => el("div", {}, el("label", { for: input.id }, labels[name]), input)),
  ),
  split,
);

const stream = new Stream(
  () => {
    const query = { run: state.run, after: state.after };
    for (const [name, input] of Object.entries(filters)) query[name] = input.value.trim();
    const given = Object.entries(query).filter(([, value]) => value !== "");
    return `${document.documentElement.dataset.base}/api/live?${new URLSearchParams(given)}`;
  },
  { state: showState, events: take },
);
get("/api/live-source").then((answer) => answer.source || refuse(answer.how), () => undefined);

function refuse(how) {
  stream.close();
  lost.say("");
  source.textContent = "no source";
  empty.textContent = how;
}

function showState({ run, source: from, problem }) {
  state.run = run;
  source.textContent = problem ? `away: ${problem}` : `live from ${from}`;
  source.className = problem ? "chip bad" : "chip good";
}

function take({ rows, last, missed }) {
  state.after = last;
  state.missed += missed;
  state.seen += rows.length + missed;
  state.waiting.push(...rows);
  if (state.waiting.length > KEPT) {
    state.missed += state.waiting.length - KEPT;
    state.waiting.splice(0, state.waiting.length - KEPT);
  }
  if (!state.isPaused) draw();
  showCounts();
}

function draw() {
  const rows = state.waiting.splice(0).slice(-DRAWN).reverse();
  if (!rows.length) return;
  if (rows.length === DRAWN && !list.contains(document.activeElement)) list.replaceChildren(); // all of it is new
  const focused = document.activeElement;
  const isReading = list.contains(focused) && list.getBoundingClientRect().top < 0;
  const heightBefore = isReading ? document.documentElement.scrollHeight : 0;
  list.prepend(...rows.map(rowOf));
  while (list.children.length > DRAWN && list.lastChild !== focused?.parentElement) list.lastChild.remove();
  if (isReading) window.scrollBy(0, document.documentElement.scrollHeight - heightBefore);
  empty.hidden = true;
}

function rowOf(event) {
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "row event", "data-id": event.id, "aria-current": String(event.id === state.chosen), onclick: () => choose(event.id) },
      el("span", { class: "when" }, clock(event.time_us)),
      el("span", { class: "type", title: event.topic }, event.topic === event.type ? event.type : `${event.type} → ${event.topic}`),
      el("span", { class: "key" }, event.key || "–"),
      el("span", { class: "preview" }, event.size > 65536 ? `[${size(event.size)}] ${event.preview}` : event.preview),
    ),
  );
}

function showCounts() {
  const parts = [plural(state.seen, "event")];
  if (state.missed) parts.push(`${count(state.missed)} not shown`);
  if (state.isPaused) parts.push(`${count(state.waiting.length)} waiting`);
  counter.textContent = parts.join(" · ");
}

function togglePause() {
  state.isPaused = !state.isPaused;
  pause.setAttribute("aria-pressed", String(state.isPaused));
  pause.textContent = state.isPaused ? "Go on" : "Pause";
  if (!state.isPaused) draw();
  showCounts();
}

function clearList() {
  Object.assign(state, { seen: 0, missed: 0, waiting: [] });
  list.replaceChildren();
  empty.hidden = false;
  showCounts();
}

let filtering;
function filterSoon() {
  clearTimeout(filtering);
  filtering = setTimeout(() => {
    clearList();
    empty.textContent = "Nothing that matches yet.";
    state.after = 0; // what the server still keeps is looked through again
    stream.open();
  }, 250);
}

async function choose(id) {
  const turn = (state.turn += 1);
  const view = await attempt(() => get(`/api/live/${encodeURIComponent(id)}`));
  if (!view || turn !== state.turn) return;
  mark(id);
  show([
    el("h2", {}, view.event_type),
    facts([
      ["Topic", view.topic],
      ["Key", view.aggregate_id],
      ["Time", day(view.time)],
      ["Who", view.user_id],
      ["Event id", view.event_id],
      ["Correlation", view.correlation_id],
      ["Caused by", view.causation_id],
      ...Object.entries(view.headers).map(([name, value]) => [name, value]),
    ]),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "button", id: "follow", onclick: () => follow(view) }, "Follow this correlation"),
    ),
    dataView(view),
  ]);
}

async function follow(view) {
  const turn = (state.turn += 1);
  const tree = await attempt(() => get("/api/correlated", { id: view.correlation_id }));
  if (!tree || turn !== state.turn) return;
  const items = tree.events.map((event) => {
    const item = el(
      "li",
      { class: event.event_id === view.event_id ? "here" : "" },
      el("b", {}, event.event_type),
      el("span", { class: "soft" }, `${event.stream} v${event.version} · ${day(event.time)}`),
    );
    item.style.marginLeft = `${Math.min(event.depth, 12) * 1.1}rem`;
    return item;
  });
  show([
    el("h2", {}, "What caused what"),
    el("p", { class: "mono soft" }, tree.correlation_id),
    tree.count > items.length && el("p", { class: "soft" }, `The first ${count(items.length)} of ${plural(tree.count, "event")}.`),
    items.length ? el("ol", { class: "tree", id: "tree" }, items) : emptyNote("The store has no event of this correlation."),
    el("div", { class: "actions" }, el("button", { type: "button", onclick: () => choose(view.event_id) }, "Back to the event")),
  ]);
}

function show(children) {
  const close = el("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: hide }, "✕");
  const [title, ...rest] = children.flat().filter(Boolean);
  detail.replaceChildren(el("div", { class: "closer" }, title, close), ...rest);
  detail.hidden = false;
  split.classList.add("open");
  if (innerWidth < 1000) detail.scrollIntoView({ block: "start" });
  detail.focus({ preventScroll: true });
}

function hide() {
  state.turn += 1;
  detail.hidden = true;
  split.classList.remove("open");
  const chosen = state.chosen;
  mark("");
  list.querySelector(`[data-id="${CSS.escape(chosen)}"]`)?.focus();
}

function mark(id) {
  state.chosen = id;
  for (const row of list.querySelectorAll(".row")) row.setAttribute("aria-current", String(row.dataset.id === id));
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !detail.hidden) hide();
});
