import { chart } from "./chart.js";
import { count, el, emptyNote, get, main, plural, poll, seconds } from "./core.js";

const body = el("div", { class: "body" });
main.append(body);
poll(async () => draw(await get("/api/handlers")));

const rate = (value) => `${value.toLocaleString("en", { maximumFractionDigits: 1 })}/s`;

function draw(found) {
  const parts = [];
  if (found.problem) parts.push(el("p", { class: "problem" }, found.problem));
  if (found.has_bus) {
    parts.push(el("h3", {}, "Handlers of this process"));
    parts.push(found.handlers.length ? el("div", { class: "grid", id: "handlers" }, found.handlers.map(card)) : emptyNote("The bus has no handlers."));
  }
  if (found.has_inspector) {
    parts.push(el("h3", {}, "Groups of the broker"));
    parts.push(found.groups.length ? el("div", { class: "grid", id: "groups" }, found.groups.map(groupCard)) : emptyNote("The broker knows no groups."));
  } else {
    parts.push(el("p", { class: "soft" }, "For the groups of a broker, give the console inspector=await Inspector.connect(url)."));
  }
  body.replaceChildren(...parts);
}

function card(handler) {
  const counts = handler.counts;
  const options = { everyS: handler.every_s };
  const latencies = Object.entries(handler.latency).map(([name, values]) => ({ name, values, show: seconds }));
  return el(
    "section",
    { class: "card handler" },
    el("div", { class: "closer" }, el("h2", {}, handler.name), state(counts)),
    numbers([
      ["handled", counts.handled],
      ["queued", counts.queued],
      ["in flight", counts.in_flight],
      ["retried", counts.retried],
      ["dead letters", counts.dead_lettered],
      ["dropped", counts.dropped],
    ]),
    chart("Rate", [{ name: "handled", values: handler.rate, show: rate }, { name: "failed", values: handler.failures, show: rate }], options),
    chart("Waiting", [{ name: "queued", values: handler.queued, show: count }, { name: "in flight", values: handler.in_flight, show: count }], options),
    latencies.length ? chart("Latency", latencies, options) : el("p", { class: "soft" }, "No latencies: give the console latencies=."),
  );
}

function state(counts) {
  if (counts.waiting_publishers) return el("span", { class: "chip bad" }, `${plural(counts.waiting_publishers, "publisher")} wait`);
  if (counts.over_capacity) return el("span", { class: "chip warn" }, `${count(counts.over_capacity)} over capacity`);
  return el("span", { class: "chip good" }, counts.in_flight ? "busy" : "idle");
}

function groupCard(group) {
  const lag = group.lag_events;
  const rows = group.members.map((member) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", class: "mono" }, member.name),
      el("td", {}, member.lanes.length ? member.lanes.join(", ") : "none"),
      el("td", { class: "number" }, member.in_flight === null ? "–" : count(member.in_flight)),
      el("td", { class: "number" }, seconds(member.idle_s)),
    ),
  );
  return el(
    "section",
    { class: "card" },
    el("div", { class: "closer" }, el("h2", {}, `${group.handler} in ${group.group}`), el("span", { class: lag ? "chip warn" : "chip good" }, lag === null ? "lag unknown" : `lag ${count(lag)}`)),
    numbers([["lag", lag], ["in flight", group.in_flight], ["members", group.members.length]]),
    el("p", { class: "soft" }, `The oldest waits since ${seconds(group.lag_seconds)}.`),
    chart("Lag", [{ name: "events", values: group.lags, show: count }], { everyS: 2 }),
    el(
      "div",
      { class: "scroll" },
      el("table", {}, el("thead", {}, el("tr", {}, ["Member", "Lanes", "In flight", "Idle"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows)),
    ),
  );
}

function numbers(pairs) {
  return el(
    "div",
    { class: "numbers" },
    pairs.map(([name, value]) => el("div", {}, el("b", {}, value === null ? "–" : count(value)), el("span", {}, name))),
  );
}
