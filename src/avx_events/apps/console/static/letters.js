import { attempt, base, confirmed, count, dataView, day, el, emptyNote, facts, get, lost, main, plural, post, tell } from "./core.js";

const detail = el("aside", { class: "card", id: "detail", "aria-label": "One dead letter", tabindex: -1, hidden: true });
const body = el("div", { class: "body" });
const split = el("div", { class: "split" }, body, detail);
const counter = el("span", { class: "chip", id: "counter", role: "status" }, "…");
const reload = el("button", { type: "button", onclick: () => load() }, "Look again");
const open = { key: "", chosen: "", count: 0, turn: 0 }; // a turn ends when something else is shown beside the list

main.querySelector("h1").replaceWith(
  el("div", { class: "head" }, el("h1", {}, "Dead letters"), counter, el("span", { class: "grow" }), reload),
);
main.append(split);
load();
setInterval(lookAgain, 5000);

async function lookAgain() {
  if (document.hidden || !detail.hidden || document.querySelector("dialog")) return;
  try {
    const { count: letters } = await get("/api/letters/count");
    lost.say("");
    if (letters !== open.count) await load();
  } catch (error) {
    if (error.code !== "not_given") lost.say("The server does not answer. Trying again; what is shown here stays.");
  }
}

async function load() {
  let found;
  try {
    found = await get("/api/letters/groups");
    lost.say("");
  } catch (error) {
    if (error.code === "not_given") body.replaceChildren(emptyNote(error.message));
    else tell(error.status ? error.message : "The server does not answer.", true);
    return;
  }
  counter.textContent = plural(found.count, "letter");
  counter.className = found.count ? "chip bad" : "chip good";
  open.count = found.count;
  const focused = document.activeElement?.id;
  const groups = found.groups.map(groupCard);
  if (found.looked_at < found.count) groups.unshift(el("p", { class: "soft" }, `The groups count the oldest ${count(found.looked_at)} letters.`));
  body.replaceChildren(...(groups.length ? groups : [emptyNote("No dead letters. Everything was handled.")]));
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
}

function groupCard(group, index) {
  const key = JSON.stringify([group.handler, group.group, group.error_type]);
  const rows = el("ol", { class: "list", hidden: open.key !== key, "aria-label": `Letters of ${group.handler}` });
  const toggle = el(
    "button",
    { type: "button", id: `show-${index}`, class: "show", "aria-expanded": String(open.key === key), onclick: show },
    open.key === key ? "Hide letters" : "Show letters",
  );
  if (open.key === key) list(group, rows);
  async function show() {
    open.key = rows.hidden ? key : "";
    rows.hidden = !rows.hidden;
    toggle.setAttribute("aria-expanded", String(!rows.hidden));
    toggle.textContent = rows.hidden ? "Show letters" : "Hide letters";
    if (!rows.hidden) await list(group, rows);
  }
  const name = group.group ? `${group.handler} in ${group.group}` : group.handler;
  return el(
    "section",
    { class: "card group" },
    el("div", { class: "closer" }, el("h2", {}, name), el("span", { class: "chip bad" }, plural(group.count, "letter"))),
    el("p", { class: "problem mono" }, group.error),
    el("p", { class: "soft" }, `${group.error_type} · from ${day(group.oldest)} to ${day(group.newest)}`),
    el(
      "div",
      { class: "actions" },
      toggle,
      el("button", { type: "button", id: `redrive-${index}`, class: "primary redrive", onclick: () => all(group, "redrive") }, "Redrive all"),
      el("button", { type: "button", id: `remove-${index}`, class: "danger remove", onclick: () => all(group, "remove") }, "Remove all…"),
    ),
    rows,
  );
}

async function list(group, rows, after = "") {
  const page = await attempt(() =>
    get("/api/letters", { handler: group.handler, group: group.group, error_type: group.error_type, after }),
  );
  if (!page) return;
  if (!after) rows.replaceChildren();
  rows.append(...page.letters.map(rowOf));
  if (page.next) {
    const more = el("button", { type: "button", class: "row", onclick: () => { more.parentElement.remove(); list(group, rows, page.next); } }, "Show more");
    rows.append(el("li", {}, more));
  }
}

function rowOf(letter) {
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "row letter", "data-id": letter.id, onclick: () => choose(letter.id) },
      el("span", { class: "when" }, day(letter.dead_at)),
      el("span", { class: "preview" }, letter.metadata?.aggregate_id ? `${letter.event_type} ${letter.metadata.aggregate_id}` : letter.event_type || "undecodable"),
      el("span", { class: "soft" }, letter.done || plural(letter.attempts, "attempt")),
    ),
  );
}

async function choose(id) {
  const turn = (open.turn += 1);
  const letter = await attempt(() => get(`/api/letters/${encodeURIComponent(id)}`));
  if (!letter) return load();
  if (turn !== open.turn) return; // somebody has gone on, and may have begun to write
  open.chosen = id;
  const metadata = letter.metadata;
  show([
    el("h2", {}, letter.event_type || "Undecodable"),
    el("p", { class: "problem mono" }, letter.error),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "button", class: "primary", id: "redrive", onclick: () => one(id, "redrive") }, "Redrive"),
      metadata && !letter.is_cut && el("button", { type: "button", id: "edit", onclick: () => edit(letter) }, "Edit…"),
      el("button", { type: "button", class: "danger", id: "remove", onclick: () => one(id, "remove") }, "Remove…"),
    ),
    facts([
      ["Handler", letter.handler],
      ["Group", letter.group],
      ["Attempts", `${letter.attempts}, ${plural(letter.redrives, "redrive")}`],
      ["First failed", day(letter.first_failed_at)],
      ["Dead since", day(letter.dead_at)],
      ["Last", letter.done],
      ["Key", metadata?.aggregate_id],
      ["Who", metadata?.user_id],
      ["Event id", metadata?.event_id],
      ["Correlation", metadata?.correlation_id],
    ]),
    metadata ? dataView(letter) : el("p", {}, `${count(letter.raw_bytes || 0)} bytes that could not be read.`),
    letter.is_cut && el("p", { class: "soft" }, "It is too large to be edited here."),
    letter.traceback && [el("h3", {}, "Traceback"), el("pre", { tabindex: 0 }, letter.traceback)],
  ]);
}

function edit(letter) {
  open.turn += 1;
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const area = el("textarea", { id: "data", spellcheck: "false", "aria-describedby": "edit-help" });
  area.value = letter.text;
  const save = async (thenRedrive) => {
    problem.hidden = true;
    try {
      const edited = await post(`/api/letters/${encodeURIComponent(letter.id)}/edit`, { text: area.value });
      tell(edited.says, edited.state !== "edited");
      if (thenRedrive && edited.state === "edited") return await one(letter.id, "redrive");
      await choose(letter.id);
    } catch (error) {
      problem.textContent = error.status ? error.message : "The server does not answer; nothing is known to be changed.";
      problem.hidden = false;
    }
  };
  show([
    el("h2", {}, `Edit ${letter.event_type}`),
    el("label", { for: "data" }, "Data, as JSON"),
    area,
    el(
      "p",
      { class: "soft", id: "edit-help" },
      letter.is_known_type ? "Its class checks what you write. " : "No class of its type is known here: nothing checks what you write. ",
      "What is hidden (••••••) stays as it was unless you write something else in its place.",
    ),
    problem,
    el(
      "div",
      { class: "actions" },
      el("button", { type: "button", class: "primary", id: "save-redrive", onclick: () => save(true) }, "Save and redrive"),
      el("button", { type: "button", id: "save", onclick: () => save(false) }, "Save"),
      el("button", { type: "button", onclick: () => choose(letter.id) }, "Cancel"),
    ),
  ]);
  area.focus();
}

async function one(id, action) {
  if (action === "remove" && !(await confirmed("Remove this letter? Its event is then handled by nobody.", "Remove"))) return;
  const turn = open.turn;
  const outcome = await attempt(() => post(`/api/letters/${encodeURIComponent(id)}/${action}`));
  if (!outcome) return;
  const isGood = ["handled", "removed", "in_line"].includes(outcome.state);
  tell(outcome.says, !isGood);
  if (turn !== open.turn) return load();
  if (["handled", "removed", "gone"].includes(outcome.state)) hide();
  else await choose(id);
  await load();
}

const SAYS = { handled: "handled", failed_again: "failed again", in_line: "in line", taken: "taken by somebody else", gone: "gone already", removed: "removed", refused: "refused" };

async function all(group, action) {
  const letters = plural(group.count, "letter");
  if (action === "remove" && !(await confirmed(`Remove ${letters} of ${group.handler}? Their events are then handled by nobody.`, `Remove ${letters}`))) return;
  const which = { handler: group.handler, group: group.group, error_type: group.error_type, until: group.newest };
  const counts = {};
  let answer;
  do {
    answer = await attempt(() => post(`/api/letters/${action}`, { ...which, after: answer?.next || "" }));
    if (!answer) break;
    for (const [state, number] of Object.entries(answer.counts)) counts[state] = (counts[state] || 0) + number;
  } while (answer.next);
  const said = Object.entries(counts).map(([state, number]) => `${count(number)} ${SAYS[state]}`);
  if (answer && !said.length) tell("None of these letters is there any more; these are the ones that are.");
  if (said.length) tell(`${said.join(", ")}.${answer?.says ? " " + answer.says : ""}`, Boolean(answer?.says));
  hide();
  await load();
}

function show(children) {
  const close = el("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: hide }, "✕");
  const [title, ...rest] = children.flat(2).filter(Boolean);
  detail.replaceChildren(el("div", { class: "closer" }, title, close), ...rest);
  detail.hidden = false;
  split.classList.add("open");
  if (innerWidth < 1000) detail.scrollIntoView({ block: "start" });
  detail.focus({ preventScroll: true });
}

function hide() {
  if (detail.hidden) return;
  open.turn += 1;
  detail.hidden = true;
  split.classList.remove("open");
  (body.querySelector(`[data-id="${CSS.escape(open.chosen)}"]`) || reload).focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog")) hide();
});
