"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const minus = text => text.replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
// A number as text, a dash where it is undefined; `percent` of a share.
const number = (value, digits = 2) => value === null || value === undefined ? "–" : minus(value.toFixed(digits));
const percent = (value, digits = 1) => number(value === null || value === undefined ? null : 100 * value, digits);
const grouped = value => value.toLocaleString("en-US");
const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
// What `packed` of page.py packed.
async function unpack(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// An element: make("td", {title: "…"}, "text", another). Keys with "-" are attributes, others properties.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

// Fills a table whose heads sort it. columns: [{name, title, value: row => number, text or null, cell: row => text or
// element (the value's text without), rising: whether the first click puts the lowest first}]. line: called with a row
// and its tr, whose `detail`, if it is given one, stays below it. sort: the number of the column that it starts sorted by. What is undefined comes last either way.
function sortable(table, columns, rows, {line = () => {}, sort = null} = {}) {
  const head = make("tr"), body = make("tbody");
  const lines = rows.map(row => {
    const cells = columns.map((column, number) => {
      const cell = (column.cell ?? column.value)(row);
      const first = number === 0 ? {scope: "row"} : {};
      return make(number === 0 ? "th" : "td", {...first, className: column.className ?? ""}, cell ?? "–");
    });
    const element = make("tr", {}, ...cells);
    line(row, element);
    return {row, element};
  });
  const state = {column: null, rising: false};
  function order(number, rising) {
    const {value} = columns[number];
    const sign = rising ? 1 : -1;
    const compare = (a, b) => {
      const [left, right] = [value(a.row), value(b.row)];
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * (typeof left === "string" ? left.localeCompare(right, "en") : left - right);
    };
    Object.assign(state, {column: number, rising});
    [...head.cells].forEach((cell, other) => {
      if (other === number) cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    body.replaceChildren(
      ...[...lines].sort(compare).flatMap(({element}) => element.detail ? [element, element.detail] : [element]));
  }
  columns.forEach((column, number) => {
    const className = column.className ?? "";
    if (!column.name) return head.append(make("td", {className}));
    const button = make("button", {type: "button", title: column.title ?? ""}, column.name);
    const rising = column.rising ?? false;
    button.addEventListener("click", () => order(number, state.column === number ? !state.rising : rising));
    head.append(make("th", {scope: "col", className}, button));
  });
  body.append(...lines.map(({element}) => element));
  table.append(make("thead", {}, head), body);
  if (sort !== null) order(sort, columns[sort].rising ?? false);
}

// Charts: make() for SVG. An axis goes from `low` to `high`; lines and dots are given in its units.
function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
// Round numbers that part [low, high], four to seven of them.
function axis(name, values, {zero = false} = {}) {
  let [low, high] = [zero ? 0 : Math.min(...values), Math.max(...values)];
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find(factor => factor * power >= rough);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const ticks = [];
  for (let k = 0; low + k * step <= high + step / 2; k++) ticks.push(Number((low + k * step).toPrecision(6)));
  return {name, low, high, ticks};
}
function chart({label, x, y, width = 320, height = 280}) {
  const [left, right, top, bottom] = [58, 12, 10, 42];
  const place = (axis, start, end) => value => start + (value - axis.low) / (axis.high - axis.low) * (end - start);
  const toX = place(x, left, width - right), toY = place(y, height - bottom, top);
  const svg = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart"});
  for (const tick of x.ticks) {
    const text = draw("text", {x: toX(tick), y: height - bottom + 17, "text-anchor": "middle"}, minus(String(tick)));
    svg.append(draw("line", {class: "grid", x1: toX(tick), x2: toX(tick), y1: top, y2: height - bottom}), text);
  }
  for (const tick of y.ticks) {
    const text = draw("text", {x: left - 7, y: toY(tick) + 4, "text-anchor": "end"}, minus(String(tick)));
    svg.append(draw("line", {class: "grid", x1: left, x2: width - right, y1: toY(tick), y2: toY(tick)}), text);
  }
  const middle = (top + height - bottom) / 2;
  svg.append(
    draw("text", {x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, x.name),
    draw("text", {transform: `rotate(-90) translate(${-middle} 12)`, "text-anchor": "middle"}, y.name));
  const points = pairs => pairs.map(([a, b]) => `${toX(a).toFixed(1)},${toY(b).toFixed(1)}`).join(" ");
  const now = draw("line", {class: "now", y1: top, y2: height - bottom, visibility: "hidden"});
  svg.append(now);
  return {
    svg,
    // An upright line at a value of x; none for null.
    mark: value => {
      const there = value !== null && value >= x.low && value <= x.high;
      now.setAttribute("visibility", there ? "visible" : "hidden");
      if (there) for (const end of ["x1", "x2"]) now.setAttribute(end, toX(value));
    },
    line: (pairs, name) => svg.append(draw("polyline", {class: name, points: points(pairs)})),
    dot: ([a, b], name, title = "") => {
      const titled = title ? [draw("title", {}, title)] : [];
      svg.append(draw("circle", {class: name, cx: toX(a), cy: toY(b), r: 4}, ...titled));
    },
    bar: (from, to, value, name) => {
      const [start, end] = [toX(from), toX(to)];
      svg.append(draw("rect", {class: name, x: start, width: end - start, y: toY(value), height: toY(y.low) - toY(value)}));
    },
  };
}
