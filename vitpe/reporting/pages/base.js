"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const minus = text => text.replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
// A number as text, a dash where it is undefined; `percent` of a share.
const number = (value, digits = 2) => value === null || value === undefined ? "–" : minus(value.toFixed(digits));
const percent = (value, digits = 1) => number(value === null || value === undefined ? null : 100 * value, digits);
const grouped = value => value.toLocaleString("en-US");

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
// and its tr. sort: the number of the column that it starts sorted by. What is undefined comes last either way.
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
    body.replaceChildren(...[...lines].sort(compare).map(({element}) => element));
  }
  columns.forEach((column, number) => {
    const button = make("button", {type: "button", title: column.title ?? ""}, column.name);
    const rising = column.rising ?? false;
    button.addEventListener("click", () => order(number, state.column === number ? !state.rising : rising));
    head.append(make("th", {scope: "col", className: column.className ?? ""}, button));
  });
  body.append(...lines.map(({element}) => element));
  table.append(make("thead", {}, head), body);
  if (sort !== null) order(sort, columns[sort].rising ?? false);
}
