// Elements and charts of the console's pages. Text from outside becomes text, never markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, ...children) {
  const made = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
const brief = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

// How long, as people say it.
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.max(0, Math.round(seconds));
  return whole < 90 ? `${whole} s` : whole < 5400 ? `${Math.round(whole / 60)} min` : `${(whole / 3600).toFixed(1)} h`;
}

// Lines over a common axis. series: [{label, points: [[x, y or null], ...], tone: 0 to 3}]. options: y: [low, high],
// log: whether y is logarithmic, bounds: [[label, y]], x: label of the axis.
function lineChart(series, options) {
  const width = 420, height = 190, left = 40, right = 10, top = 10, bottom = 26;
  const points = series.flatMap((one) => one.points).filter((point) => point[1] !== null);
  const of = options.log ? (y) => Math.log10(Math.max(y, 1e-6)) : (y) => y;
  const xs = points.map((point) => point[0]), ys = points.map((point) => of(point[1]));
  for (const [, y] of options.bounds || []) ys.push(of(y));
  const range = options.y ? options.y.map(of) : [Math.min(...ys, options.log ? -1 : 0), Math.max(...ys, options.log ? 1 : 1)];
  const [x0, x1] = xs.length ? [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)] : [0, 1];
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - ((of(y) - range[0]) / (range[1] - range[0] || 1)) * (height - top - bottom);
  const drawn = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label || "curve" });
  const ticks = options.log
    ? Array.from({ length: Math.floor(range[1]) - Math.ceil(range[0]) + 1 }, (_, place) => 10 ** (Math.ceil(range[0]) + place))
    : [0, 0.25, 0.5, 0.75, 1].map((share) => range[0] + share * (range[1] - range[0]));
  for (const y of ticks) {
    drawn.append(make("svg:line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
    drawn.append(make("svg:text", { x: left - 6, y: py(y) + 4, "text-anchor": "end", text: options.log ? String(y) : Number(y.toFixed(2)) }));
  }
  for (const x of [x0, x1]) drawn.append(make("svg:text", { x: px(x), y: height - 10, "text-anchor": x === x0 ? "start" : "end", text: Math.round(x) }));
  drawn.append(make("svg:text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle", text: options.x || "" }));
  for (const [label, y] of options.bounds || []) {
    drawn.append(make("svg:line", { class: "bound", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
    drawn.append(make("svg:text", { x: width - right, y: py(y) - 4, "text-anchor": "end", text: label }));
  }
  series.forEach((one, place) => {
    const tone = `c${one.tone === undefined ? place : one.tone}`;
    let path = "";
    for (const [x, y] of one.points) path += y === null ? " " : `${path.endsWith(" ") || !path ? "M" : "L"}${px(x).toFixed(1)},${py(y).toFixed(1)}`;
    drawn.append(make("svg:path", { class: `line ${tone}`, d: path.trim() || "M0,0" }));
    const last = one.points.filter((point) => point[1] !== null).at(-1);
    if (last) drawn.append(make("svg:circle", { class: tone, cx: px(last[0]), cy: py(last[1]), r: 3 }));
  });
  return make("div", {}, drawn, legend(series));
}

function legend(series) {
  return make("div", { class: "legend" }, ...series.map((one, place) => {
    const last = one.points.filter((point) => point[1] !== null).at(-1);
    return make("span", {}, make("i", { class: `c${one.tone === undefined ? place : one.tone}` }), `${one.label} ${last ? brief(last[1]) : ""}`);
  }));
}

// Success rates with their intervals, 0 to 1. rows: [{label, rate, interval: [low, high] or null, note}].
function rateChart(rows) {
  const width = 420, step = 38, left = 6, right = 6, height = rows.length * step + 20;
  const px = (share) => left + share * (width - left - right);
  const drawn = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "success rates with 95 % intervals" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    drawn.append(make("svg:line", { class: "grid", x1: px(share), x2: px(share), y1: 2, y2: height - 16 }));
    drawn.append(make("svg:text", { x: px(share), y: height - 3, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle", text: `${100 * share} %` }));
  }
  rows.forEach((row, place) => {
    const y = place * step + 26;
    drawn.append(make("svg:text", { x: left, y: y - 10, text: `${row.label}   ${row.note}` }));
    if (row.interval) drawn.append(make("svg:line", { class: "whisker", x1: px(row.interval[0]), x2: px(row.interval[1]), y1: y, y2: y }));
    if (row.rate !== null) drawn.append(make("svg:circle", { class: `c${place % 4}`, cx: px(row.rate), cy: y, r: 4.5 }));
  });
  return drawn;
}

function table(head, rows) {
  const cell = (tag, value) => (value instanceof Node ? make(tag, {}, value) : Array.isArray(value) ? make(tag, { class: value[1], text: value[0] }) : make(tag, { text: value }));
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col", text: name })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) => cell("td", value)))))));
}

// Light, dark, or as the system: kept in this browser.
function setTheme(next) {
  const themes = ["", "light", "dark"], now = localStorage.getItem("theme") || "";
  const chosen = next ? themes[(themes.indexOf(now) + 1) % themes.length] : now;
  if (next) localStorage.setItem("theme", chosen);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  return chosen || "system";
}
