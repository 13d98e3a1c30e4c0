// What all pages share: making elements, asking the server, saying what happened, and following a stream.
// Whatever comes from outside is put in as text, never as markup.

const root = document.documentElement;
export const base = root.dataset.base;
export const main = document.getElementById("main");

/** Make an element: attributes by name, "on…" for listeners; children are elements, text or nothing. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export class Refused extends Error {
  constructor(problem, code, status) {
    super(problem);
    this.code = code;
    this.status = status;
  }
}

export function pathOf(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const written = new URLSearchParams(given).toString();
  return `${base}${path}${written ? "?" + written : ""}`;
}

export async function get(path, query = {}) {
  return answerOf(await fetch(pathOf(path, query), { headers: { Accept: "application/json" } }));
}

/** Change something; a page that is older than its session learns the new one's token first. */
export async function post(path, body = {}) {
  try {
    return await send(path, body);
  } catch (error) {
    if (error.code !== "form_token" && error.code !== "session") throw error;
    root.dataset.formToken = (await get("/api/session")).form_token;
    return await send(path, body);
  }
}

async function send(path, body) {
  const headers = { "Content-Type": "application/json", "X-Form-Token": root.dataset.formToken };
  return answerOf(await fetch(pathOf(path), { method: "POST", headers, body: JSON.stringify(body) }));
}

async function answerOf(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401) leaveToLogin();
  throw new Refused(body.error || `the server answered ${response.status}`, body.code, response.status);
}

function leaveToLogin() {
  const page = location.pathname.slice(base.length + 1);
  location.assign(pathOf("/login", { next: page }));
}

/** Say what happened, for a while, to eyes and to screen readers. */
export function tell(text, isBad = false) {
  const note = el("div", { class: isBad ? "bad" : "" }, text);
  const told = document.getElementById("told");
  told.append(note);
  while (told.children.length > 4) told.firstChild.remove();
  setTimeout(() => note.remove(), isBad ? 12000 : 7000);
}

export const lost = {
  say(text) {
    const bar = document.getElementById("lost");
    if (bar.textContent !== text) bar.textContent = text;
    bar.hidden = !text;
  },
};

/** Put a page that has nothing to show: why, and what to do. */
export function emptyNote(text) {
  return el("p", { class: "empty" }, text);
}

/** Do something and say how it went wrong, if it did. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    tell(error instanceof Refused ? error.message : "The server does not answer.", true);
    return undefined;
  }
}

/** Follow server-sent events; what is lost is opened again, after pauses that grow to 10 s. */
export class Stream {
  constructor(pathNow, listeners) {
    this.pathNow = pathNow;
    this.listeners = listeners;
    this.failures = 0;
    this.open();
  }

  open() {
    this.close();
    this.source = new EventSource(this.pathNow());
    for (const [name, listener] of Object.entries(this.listeners)) {
      this.source.addEventListener(name, (message) => {
        this.alive();
        listener(JSON.parse(message.data));
      });
    }
    this.source.addEventListener("beat", () => this.alive());
    this.source.onerror = () => this.failed();
    this.watch();
  }

  alive() {
    this.failures = 0;
    lost.say("");
    this.watch();
  }

  watch() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.failed(), 25000);
  }

  async failed() {
    this.close();
    const pauseMs = Math.min(1000 * 2 ** this.failures, 10000);
    this.failures += 1;
    lost.say(`The server does not answer. Trying again in ${pauseMs / 1000} s; what is shown here stays.`);
    this.retry = setTimeout(async () => {
      // An EventSource does not say why it failed: an answer that needs a login leads there.
      await get("/api/session").catch(() => undefined);
      this.open();
    }, pauseMs);
  }

  close() {
    clearTimeout(this.silence);
    clearTimeout(this.retry);
    this.source?.close();
  }
}

/** Ask again and again while the page is seen; say where the server has gone. */
export function poll(ask, everyMs = 1000) {
  let failures = 0;
  async function once() {
    let pauseMs = everyMs;
    if (!document.hidden) {
      try {
        await ask();
        failures = 0;
        lost.say("");
      } catch (error) {
        if (error instanceof Refused && error.status < 500) {
          main.querySelector(".body")?.replaceChildren(emptyNote(error.message));
          if (error.code === "not_given") return;
        } else {
          failures += 1;
          const why = error instanceof Refused ? error.message : "The server does not answer.";
          lost.say(`${why} Trying again; what is shown here stays.`);
        }
        pauseMs = Math.min(1000 * 2 ** failures, 15000);
      }
    }
    setTimeout(once, pauseMs);
  }
  once();
}

export function clock(us) {
  const time = new Date(us / 1000);
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(time.getMilliseconds()).padStart(3, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${ms}`;
}

export function day(iso) {
  if (!iso) return "–";
  const time = new Date(iso);
  const two = (number) => String(number).padStart(2, "0");
  const date = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${date} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} kB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}

export function count(number) {
  return number.toLocaleString("en");
}

export function plural(number, one, many = one + "s") {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function facts(pairs) {
  const list = el("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(el("dt", {}, name), el("dd", {}, value instanceof Node ? value : String(value)));
  }
  return list;
}

/** Show data: whole, or its beginning with its size and where all of it is. */
export function dataView(view) {
  if (!view.is_cut) {
    return [el("h3", {}, `Data, ${size(view.size_bytes)}`), el("pre", { tabindex: 0 }, view.text)];
  }
  const download = el("a", { href: `${base}${view.download}`, download: true }, `Download all ${size(view.size_bytes)}`);
  return [
    el("h3", {}, `Data, ${size(view.size_bytes)}: only the beginning is shown`),
    el("p", {}, download),
    el("pre", { tabindex: 0 }, view.text + "…"),
  ];
}

/** Ask before something that cannot be undone. */
export function confirmed(question, verb) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { "aria-label": question });
    const answer = (value) => {
      dialog.remove();
      resolve(value);
    };
    dialog.append(
      el("p", {}, question),
      el(
        "div",
        { class: "actions" },
        el("button", { type: "button", class: "danger", id: "confirm", onclick: () => answer(true) }, verb),
        el("button", { type: "button", onclick: () => answer(false) }, "Cancel"),
      ),
    );
    dialog.addEventListener("cancel", () => answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// On a phone the pages do not all fit in one line: begin with the one that is open.
const here = document.querySelector("nav [aria-current]");
here.closest("ul").scrollLeft = here.offsetLeft - 16;

document.getElementById("logout")?.addEventListener("click", () =>
  attempt(async () => location.assign((await post("/logout")).login)),
);

// Up and down go from row to row in every list.
main.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches(".row")) return;
  const rows = [...event.target.closest(".list").querySelectorAll(".row")];
  rows[rows.indexOf(event.target) + step]?.focus();
  event.preventDefault();
});
