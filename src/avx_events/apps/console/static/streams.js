import { attempt, count, dataView, day, el, emptyNote, facts, get, lost, main, pathOf, plural, size } from "./core.js";

const query = new URLSearchParams(location.search);
const name = query.get("name");
if (name === null) showList();
else showStream(name);

function showList() {
  const prefix = el("input", { id: "prefix", type: "search", placeholder: "all streams", oninput: searchSoon });
  prefix.value = query.get("prefix") || "";
  const list = el("ol", { class: "card list", id: "streams", "aria-label": "Streams, by name" });
  const note = emptyNote("…");
  const more = el("button", { type: "button", id: "more", hidden: true }, "Show more");
  main.append(
    el("div", { class: "filters", role: "search" }, el("div", {}, el("label", { for: "prefix" }, "Name begins with"), prefix)),
    el("div", { class: "body" }, list, note, el("div", { class: "actions" }, more)),
  );
  let wanted = 0;
  let searching;
  search();

  function searchSoon() {
    clearTimeout(searching);
    searching = setTimeout(search, 200);
  }

  async function search(after = "") {
    const mine = (wanted += 1);
    let page;
    try {
      page = await get("/api/streams", { prefix: prefix.value, after });
      lost.say("");
    } catch (error) {
      if (error.status) note.textContent = error.message;
      else lost.say("The server does not answer; search again.");
      return;
    }
    if (mine !== wanted) return; // somebody has typed on
    if (!after) list.replaceChildren();
    list.append(...page.streams.map(rowOf));
    note.hidden = list.children.length > 0;
    note.textContent = prefix.value ? "No stream begins so." : "The store has no streams yet.";
    more.hidden = !page.next;
    more.onclick = () => search(page.next);
    if (!after) history.replaceState(null, "", pathOf("/streams", { prefix: prefix.value }));
  }

  function rowOf(stream) {
    return el(
      "li",
      {},
      el(
        "a",
        { class: "row stream", href: pathOf("/streams", { name: stream.name }) },
        el("span", { class: "type" }, stream.name),
        el("span", { class: "soft" }, `version ${count(stream.version)}`),
        el("span", { class: "when" }, day(stream.last_recorded_at)),
      ),
    );
  }
}

async function showStream(stream) {
  const body = el("div", { class: "body" });
  main.querySelector("h1").replaceWith(
    el("p", {}, el("a", { href: pathOf("/streams") }, "← All streams")),
    el("div", { class: "head" }, el("h1", {}, stream)),
  );
  main.append(body);
  const found = await attempt(() => get("/api/stream", { name: stream }));
  if (!found) {
    body.append(emptyNote("There is no such stream."));
    return;
  }
  document.title = `${stream} · avx-events`;
  const last = found.version;
  const chosen = Math.min(Math.max(Number(query.get("version")) || last, 1), last);
  const slider = el("input", { type: "range", id: "version", min: 1, max: last, step: 1, "aria-describedby": "place", oninput: moved });
  slider.value = chosen;
  const back = el("button", { type: "button", id: "back", "aria-label": "One version back", onclick: () => step(-1) }, "←");
  const forth = el("button", { type: "button", id: "forth", "aria-label": "One version on", onclick: () => step(1) }, "→");
  const place = el("p", { id: "place", class: "soft", role: "status" });
  const entry = el("section", { class: "card", id: "entry", "aria-label": "The event at this version" });
  const state = el("section", { class: "card", id: "state", "aria-label": "The state at this version" });
  const list = el("ol", { class: "card list", id: "history", "aria-label": "Events, the oldest first" });
  const more = el("button", { type: "button", hidden: !found.next, onclick: moreRows }, "Show more");
  main.querySelector(".head").append(el("span", { class: "chip" }, plural(last, "event")), found.aggregate && el("span", { class: "chip good" }, found.aggregate));
  body.append(
    el("div", { class: "card" }, el("label", { for: "version" }, "Version"), el("div", { class: "slider" }, back, slider, forth), place),
    el("div", { class: "grid", id: "moment" }, entry, state),
    el("h3", {}, "All events"),
    list,
    el("div", { class: "actions" }, more),
  );
  list.append(...found.events.map(rowOf));
  let next = found.next;
  let asked = 0;
  let timer;
  look();

  async function moreRows() {
    const page = await attempt(() => get("/api/stream", { name: stream, after: next }));
    if (!page) return;
    list.append(...page.events.map(rowOf));
    next = page.next;
    more.hidden = !next;
  }

  function rowOf(event) {
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", class: "row event", "data-version": event.version, onclick: () => go(event.version) },
        el("span", { class: "when" }, `v${event.version}`),
        el("span", { class: "type" }, event.event_type),
        el("span", { class: "key" }, event.user_id || "–"),
        el("span", { class: "preview" }, event.size > 65536 ? `[${size(event.size)}] ${event.preview}` : event.preview),
      ),
    );
  }

  function step(by) {
    go(Number(slider.value) + by);
  }

  function go(version) {
    slider.value = version;
    look();
  }

  function moved() {
    clearTimeout(timer);
    timer = setTimeout(look, 60);
  }

  async function look() {
    const version = Number(slider.value);
    const mine = (asked += 1);
    back.disabled = version === 1;
    forth.disabled = version === last;
    slider.setAttribute("aria-valuetext", `version ${version} of ${last}`);
    const view = await attempt(() => get("/api/stream/entry", { name: stream, version }));
    if (!view || mine !== asked) return;
    place.textContent = `Version ${count(version)} of ${count(last)}, ${day(view.recorded_at)}`;
    for (const row of list.querySelectorAll(".row")) row.setAttribute("aria-current", String(Number(row.dataset.version) === version));
    entry.replaceChildren(
      el("h2", {}, view.event_type),
      facts([
        ["When", day(view.recorded_at)],
        ["Who", view.user_id || "nobody said"],
        ["Why", view.causation_id ? `caused by ${view.causation_id}` : "the first of its chain"],
        ["Correlation", view.correlation_id],
        ["Event id", view.event_id],
        ["Position", view.position],
        ...Object.entries(view.headers),
      ]),
      ...dataView(view),
    );
    state.replaceChildren(...stateOf(view, version));
    history.replaceState(null, "", pathOf("/streams", { name: stream, version }));
  }

  function stateOf(view, version) {
    if (!view.fields) {
      return [el("h2", {}, "State"), el("p", { class: "soft" }, "To see the state here, give the console the class of this aggregate: aggregates={'…': YourAggregate}.")];
    }
    const rows = view.fields.map((field) =>
      el(
        "tr",
        { class: field.is_changed ? "changed" : "" },
        el("th", { scope: "row" }, field.name),
        el("td", { class: "mono" }, field.is_changed ? [el("del", {}, field.before), " → ", el("ins", {}, field.value)] : field.value),
      ),
    );
    const changed = view.fields.filter((field) => field.is_changed).length;
    return [
      el("h2", {}, `${found.aggregate} at version ${version}`),
      el("p", { class: "soft" }, changed ? `This event changed ${plural(changed, "field")}.` : "This event changed nothing."),
      el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows))),
    ];
  }
}
