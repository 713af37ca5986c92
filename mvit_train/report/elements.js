"use strict";

// The data of the page, and what every part of it builds its elements and texts with.

const data = JSON.parse(document.getElementById("data").textContent);
const { metrics, classes } = data;
const orders = Object.keys(metrics.orders);
const headline = orders.includes("forward") ? "forward" : orders[0];
const multi = "mAP" in metrics.orders[headline]; // a video may have several labels
const [main, mainName] = multi ? ["mAP", "mAP"] : ["top1", "Top-1"];
// A single order has nothing to be compared with; so has a clip of one frame.
const onlyForward = orders.length === 1 && headline === "forward";
// By name: an object's integer-like keys, as class names can be, come first whatever their order in the file.
const rows = Object.fromEntries(
  orders.map((order) => [order, classes.map((name) => metrics.orders[order].per_class[name])]),
);
const accuracy = (order, index) => rows[order][index][multi ? "AP" : "top1"];

const byId = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 640;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const family = (order) => order.split("_")[0]; // shuffle_2 has the colour of shuffle

// Plotly reads <b>, <a> and entities in its texts as markup; class names are text.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cut = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

const fixed = (value, digits = 1) => (value == null ? "–" : value.toFixed(digits));
const signed = (value, digits = 1) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const span = (bounds, form = fixed) => (bounds ? `${form(bounds[0])} to ${form(bounds[1])}` : "–");
const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}\u00a0%`;
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const pValue = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

// Builds an element; every string becomes a text node, so nothing in the data is ever read as HTML.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A cell is a text or a node. `figures`: columns of numbers in a table of texts, which are set to the right.
function table(head, body, figures = null) {
  const cell = (tag, attributes, content, column) =>
    element(
      tag,
      { ...attributes, ...(figures?.includes(column) ? { class: "figure" } : {}) },
      content instanceof Node ? content : String(content),
    );
  const lines = body.map((row) =>
    element(
      "tr",
      {},
      ...row.map((content, column) =>
        column ? cell("td", {}, content, column) : cell("th", { scope: "row" }, content, column),
      ),
    ),
  );
  return element(
    "div",
    { class: "scroll" },
    element(
      "table",
      figures ? { class: "text" } : {},
      element(
        "thead",
        {},
        element("tr", {}, ...head.map((text, column) => cell("th", { scope: "col" }, text, column))),
      ),
      element("tbody", {}, ...lines),
    ),
  );
}

// A number's place on a scale from 0 to 100, with its interval and, where one is expected, the band.
function strip(value, interval, band = null) {
  const part = (name, low, high) => element("i", { class: name, style: `left: ${low}%; width: ${high - low}%` });
  return element(
    "span",
    { class: "strip", "aria-hidden": "true" },
    ...(band ? [part("band", ...band)] : []),
    ...(interval ? [part("interval", ...interval)] : []),
    element("i", { class: "dot", style: `left: ${value}%` }),
  );
}
