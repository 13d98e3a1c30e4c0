import { count, el, emptyNote, get, main, poll, seconds } from "./core.js";

const body = el("div", { class: "body" });
main.append(body);
poll(async () => draw(await get("/api/projections")));

const CHIPS = { live: "good", building: "warn", failed: "bad", stopped: "bad" };

function draw({ projections }) {
  body.replaceChildren(
    projections.length ? el("div", { class: "grid", id: "projections" }, projections.map(card)) : emptyNote("There are no projections."),
  );
}

function card(projection) {
  const { name, version, state, position, last_position: last } = projection;
  const share = last ? Math.min(position / last, 1) : 1;
  const progress = el("progress", { max: 1, value: share, "aria-label": `${name} is at ${count(position)} of ${count(last)}` });
  const left = projection.seconds_left === null ? "it stands" : projection.seconds_left > 0 ? `${seconds(projection.seconds_left)} left` : "caught up";
  return el(
    "section",
    { class: "card" },
    el("div", { class: "closer" }, el("h2", {}, name), el("span", { class: `chip ${CHIPS[state]}` }, state)),
    el("p", { class: "soft" }, projection.replaces === null ? `version ${version}` : `version ${version}, built beside version ${projection.replaces}, which is read meanwhile`),
    progress,
    el("p", { class: "soft" }, `position ${count(position)} of ${count(last)} (${Math.floor(share * 100)} %), ${left}`),
    el(
      "div",
      { class: "numbers" },
      [
        ["events behind", count(projection.lag_events)],
        ["behind", seconds(projection.lag_seconds)],
        ["events a second", count(Math.round(projection.events_per_second))],
        ["handled here", count(projection.handled)],
        ["failures", count(projection.failures)],
        ["dead letters", count(projection.dead_lettered)],
      ].map(([label, value]) => el("div", {}, el("b", {}, value), el("span", {}, label))),
    ),
    projection.problem && el("p", { class: "problem mono" }, projection.problem),
  );
}
