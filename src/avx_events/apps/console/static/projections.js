import { attempt, confirmed, count, el, emptyNote, get, main, poll, post, seconds, tell } from "./core.js";

const body = el("div", { class: "body" });
const grid = el("div", { class: "grid", id: "projections" });
const cards = new Map(); // by name; what can be pressed stays where it is while the figures change
main.append(body);
poll(load);

async function load() {
  draw(await get("/api/projections"));
}

const CHIPS = { live: "good", building: "warn", waiting: "warn", paused: "warn", failed: "bad", stopped: "bad" };

function draw({ projections }) {
  const names = projections.map((projection) => projection.name);
  for (const [name, card] of cards) {
    if (names.includes(name)) continue;
    card.section.remove();
    cards.delete(name);
  }
  for (const projection of projections) {
    if (!cards.has(projection.name)) cards.set(projection.name, cardOf(projection.name));
    const card = cards.get(projection.name);
    card.show(projection);
    if (!card.section.isConnected) grid.append(card.section);
  }
  const shown = projections.length ? grid : emptyNote("There are no projections.");
  if (shown !== body.firstChild) body.replaceChildren(shown);
}

function cardOf(name) {
  const figures = el("div", {});
  const turn = el("button", { type: "button", class: "turn", onclick: () => act(name, turn.dataset.verb) });
  const rebuild = el("button", { type: "button", class: "danger rebuild", onclick: () => act(name, "rebuild") }, "Rebuild…");
  const section = el("section", { class: "card", "data-projection": name }, figures, el("div", { class: "actions" }, turn, rebuild));
  function show(projection) {
    const verb = projection.state === "paused" ? "resume" : "pause";
    if (turn.dataset.verb !== verb) {
      turn.dataset.verb = verb;
      turn.textContent = verb === "resume" ? "Resume" : "Pause";
    }
    figures.replaceChildren(...figuresOf(projection));
  }
  return { section, show };
}

const QUESTION = "Build it again, from the first event? What is read stays as it was until that is done, if the projection names its tables; else it is incomplete until then.";

async function act(name, verb) {
  if (verb === "rebuild" && !(await confirmed(`${name}: ${QUESTION}`, "Rebuild"))) return;
  const answer = await attempt(() => post(`/api/projections/${encodeURIComponent(name)}/${verb}`));
  if (!answer) return;
  tell(answer.says);
  await attempt(load);
}

function figuresOf(projection) {
  const { name, state, position, last_position: last } = projection;
  const share = last ? Math.min(position / last, 1) : 1;
  const progress = el("progress", { max: 1, value: share, "aria-label": `${name} is at ${count(position)} of ${count(last)}` });
  const left = projection.seconds_left === null ? "it stands" : projection.seconds_left > 0 ? `${seconds(projection.seconds_left)} left` : "caught up";
  return [
    el("div", { class: "closer" }, el("h2", {}, name), el("span", { class: `chip ${CHIPS[state]}` }, state)),
    el("p", { class: "soft" }, versionOf(projection)),
    progress,
    el("p", { class: "soft" }, `position ${count(position)} of ${count(last)} (${Math.floor(share * 100)} %), ${left}`),
    el(
      "div",
      { class: "numbers" },
      [
        ["events behind", count(projection.lag_events)],
        ["behind", seconds(projection.lag_seconds)],
        ["events a second", count(Math.round(projection.events_per_second))],
        ["handled here", projection.handled],
        ["failures", projection.failures],
        ["dead letters", projection.dead_lettered],
      ]
        .filter(([, value]) => value !== null)
        .map(([label, value]) => el("div", {}, el("b", {}, typeof value === "number" ? count(value) : value), el("span", {}, label))),
    ),
    ...(projection.problem ? [el("p", { class: "problem mono" }, projection.problem)] : []),
  ];
}

function versionOf({ version, replaces, state }) {
  if (state === "waiting") return "to be built again, by the next process that runs it; until then it is read as it was";
  if (replaces === null) return `version ${version}`;
  if (replaces === 0) return `version ${version}, built again beside what it was, which is read meanwhile`;
  return `version ${version}, built beside version ${replaces}, which is read meanwhile`;
}
