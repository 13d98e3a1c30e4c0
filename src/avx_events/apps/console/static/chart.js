// Lines over time, drawn by hand: what is there, one point a sample, the newest at the right.
import { el, svg } from "./core.js";

const WIDTH = 300;
const HEIGHT = 92;
const TOP = 14;
const BOTTOM = 16;

/** Draw lines over each other. Each is {name, values, show}: values may have gaps (null). */
export function chart(title, lines, { points = 120, everyS = 1 } = {}) {
  const shown = lines.map((line) => ({ ...line, values: line.values.slice(-points) }));
  const most = Math.max(1e-9, ...shown.flatMap((line) => line.values.filter((value) => value !== null)));
  const show = lines[0]?.show || String;
  const drawing = svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": said(title, shown) },
    svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: TOP, y2: TOP, "stroke-dasharray": "2 4" }),
    shown.flatMap((line, index) => [
      index === 0 && svg("path", { class: `area f${index}`, d: pathOf(line.values, most, points, true) }),
      svg("path", { class: `line c${index % 3}`, d: pathOf(line.values, most, points, false) }),
    ]),
  );
  const peak = most > 1e-9 ? show(most) : "0";
  return el(
    "figure",
    { class: "figure" },
    el("h3", {}, title, " ", el("small", {}, `peak ${peak}, last ${Math.round((points * everyS) / 60)} min`)),
    drawing,
    el("p", { class: "legend" }, shown.map((line, index) => el("span", {}, el("i", { class: `c${index % 3}` }), `${line.name} ${last(line)}`))),
  );
}

function said(title, lines) {
  return `${title}: ${lines.map((line) => `${line.name} now ${last(line)}`).join(", ")}`;
}

function last(line) {
  const value = line.values.at(-1);
  return value === null || value === undefined ? "–" : (line.show || String)(value);
}

function pathOf(values, most, points, isClosed) {
  const step = WIDTH / (points - 1);
  const left = WIDTH - (values.length - 1) * step;
  const parts = [];
  let isDown = false;
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      isDown = false;
      return;
    }
    const x = (left + index * step).toFixed(1);
    const y = (HEIGHT - BOTTOM - (value / most) * (HEIGHT - TOP - BOTTOM)).toFixed(1);
    parts.push(`${isDown ? "L" : "M"}${x} ${y}`);
    isDown = true;
  });
  if (isClosed && parts.length) parts.push(`L${WIDTH} ${HEIGHT - BOTTOM}L${left.toFixed(1)} ${HEIGHT - BOTTOM}Z`);
  return parts.join("");
}
