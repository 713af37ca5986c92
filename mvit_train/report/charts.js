"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { metrics, classes } = data;
const orders = Object.keys(metrics.orders);
const headline = orders.includes("forward") ? "forward" : orders[0];
const multi = "mAP" in metrics.orders[headline]; // a video may have several labels
const [main, mainName] = multi ? ["mAP", "mAP"] : ["top1", "Top-1"];
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Plotly reads <b>, <a> and entities in its texts as markup; class names are text.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, length) => plain(text.length > length ? text.slice(0, length - 1) + "…" : text);

function draw(id, label, traces, layout) {
  const ink = colour("soft"), line = colour("line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: true };
  const full = {
    margin: { l: 8, r: 12, t: 8, b: 8 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false,
    font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 12 }, hovermode: "closest",
    hoverlabel: { bgcolor: colour("card"), bordercolor: line, font: { color: colour("ink") } }, ...layout,
  };
  for (const name of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) full[name] = { ...axis, ...layout[name] };
  byId(id).setAttribute("aria-label", label);
  return Plotly.react(id, traces, full, { displayModeBar: false, responsive: true });
}

function drawCurves() {
  const panels = [
    ["Loss", [["train/loss", "train", "shuffle"], ["val/loss", "validation", "forward"]], {}],
    [`${mainName} (%)`, [[`train/${main}`, "train", "shuffle"], [`val/${main}`, "validation", "forward"]], { rangemode: "tozero" }],
    ["Learning rate", [["optim/lr", "learning rate", "freeze"]], { exponentformat: "power", rangemode: "tozero" }],
  ];
  panels.forEach(([title, wanted, yaxis], index) => {
    const lines = wanted.filter(([name]) => data.curves[name]);
    byId(`curve-${index}`).parentElement.hidden = !lines.length;
    if (!lines.length) return;
    const traces = lines.map(([name, label, shade]) => ({
      x: data.curves[name].step, y: data.curves[name].value, name: label, line: { color: colour(shade), width: 2 },
      mode: data.curves[name].step.length < 40 ? "lines+markers" : "lines", marker: { size: 5 },
      hovertemplate: `${label}: %{y:.4g}<br>step %{x}<extra></extra>`,
    }));
    draw(`curve-${index}`, `${title} over training steps`, traces, {
      xaxis: { title: { text: "step" } }, yaxis: { nticks: 6, ...yaxis }, showlegend: lines.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, margin: { l: 8, r: 12, t: 8, b: 8 },
    });
  });
}

function drawOrders() {
  const top1 = orders.map((order) => metrics.orders[order][main]);
  byId("order-chart").style.height = `${46 * orders.length + 40}px`;
  draw("order-chart", `${mainName}: ${orders.map((order, i) => `${order} ${top1[i].toFixed(1)} %`).join(", ")}`, [{
    type: "bar", orientation: "h", y: orders, x: top1, marker: { color: orders.map(colour), cornerradius: 4 },
    text: top1.map((value) => `${value.toFixed(1)} %`), textposition: "auto", hoverinfo: "none", cliponaxis: false,
    insidetextfont: { color: colour("card") },
  }], {
    margin: { l: 8, r: 26, t: 8, b: 8 }, xaxis: { range: [0, 100], tickvals: [0, 25, 50, 75, 100], ticksuffix: " %" }, yaxis: { autorange: "reversed", type: "category", ticksuffix: "  " },
    bargap: 0.3,
  });
}

const SORTS = {
  accuracy: [multi ? "average precision" : "accuracy", (order) => (index) => -(accuracy(order, index) ?? -1)],
  name: ["name", () => (index) => index],
};
if (orders.includes("shuffle") && headline === "forward")
  SORTS.hurt = ["loss when shuffled", () => (index) => (accuracy("shuffle", index) ?? 0) - (accuracy("forward", index) ?? 0)];
// By name: an object's integer-like keys, as class names can be, come first whatever their order in the file.
const rows = Object.fromEntries(orders.map((order) => [order, classes.map((name) => metrics.orders[order].per_class[name])]));
const accuracy = (order, index) => rows[order][index][multi ? "AP" : "top1"];

function drawClasses() {
  const key = SORTS[byId("sort").value][1](headline);
  const shown = classes.map((_, index) => index).sort((a, b) => key(a) - key(b) || a - b);
  const places = shown.map((_, place) => place);
  const gap = 0.03, width = (1 - gap * (orders.length - 1)) / orders.length;
  const narrow = window.innerWidth < 640;
  const layout = {
    bargap: 0.25, margin: { l: 8, r: 12, t: 24, b: 8 },
    yaxis: { tickvals: places, ticktext: shown.map((index) => short(classes[index], narrow ? 14 : 34) + "  "),
             range: [shown.length - 0.5, -0.5], showgrid: false, zeroline: false },
  };
  const traces = orders.map((order, number) => {
    const start = number * (width + gap), axis = number ? `x${number + 1}` : "x";
    layout[number ? `xaxis${number + 1}` : "xaxis"] = {
      domain: [start, start + width], range: [0, 100], side: "top", tickvals: narrow ? [] : [0, 50, 100], zeroline: false,
    };
    return {
      type: "bar", orientation: "h", xaxis: axis, y: places, x: shown.map((index) => accuracy(order, index)),
      marker: { color: colour(order), cornerradius: 2 },
      hovertext: shown.map((index) => classHover(order, index)), hovertemplate: "%{hovertext}<extra></extra>",
    };
  });
  byId("class-chart").style.height = `${shown.length * (shown.length > 40 ? 18 : 26) + 50}px`;
  draw("class-chart", `${multi ? "Average precision" : "Top-1"} of ${classes.length} classes in the frame orders ${orders.join(", ")}`, traces, layout);
}

function classHover(order, index) {
  const row = rows[order][index];
  if (!row.videos) return `<b>${plain(classes[index])}</b><br>no videos`;
  if (multi) return `<b>${plain(classes[index])}</b>, ${order}<br>average precision ${row.AP.toFixed(1)} %, ${row.videos} videos show it`;
  return `<b>${plain(classes[index])}</b>, ${order}<br>${row.top1.toFixed(1)} % of ${row.videos} videos<br>` +
    `most called ${plain(row.most_predicted)} (${row.most_predicted_share.toFixed(0)} %)`;
}

function drawConfusion() {
  const order = byId("confusion-order").value, count = classes.length, few = count <= 40;
  const empty = () => Array.from({ length: count }, () => new Array(count).fill(0));
  const share = empty(), counts = empty();
  for (const [label, called, videos] of data.confusions[order]) counts[label][called] = videos;
  counts.forEach((row, label) => {
    const videos = row.reduce((sum, value) => sum + value, 0);
    row.forEach((value, called) => { share[label][called] = videos ? (100 * value) / videos : 0; });
  });
  const size = Math.min(byId("confusion-chart").clientWidth, 820);
  const ticks = few
    ? { tickvals: classes.map((_, index) => index), ticktext: classes.map((name) => short(name, size < 500 ? 12 : 24)) }
    : { nticks: 9, tickformat: "d" };
  byId("confusion-chart").style.height = `${few ? Math.min(size, 190 + 44 * count) : size}px`;
  const numbers = count > 16 || size < 500 ? [] : share.flatMap((row, label) => row.flatMap((value, called) => (value
    ? [{ x: called, y: label, text: value.toFixed(0), showarrow: false, font: { color: colour(value > 50 ? "card" : "ink") } }] : [])));
  draw("confusion-chart", `Confusion of ${count} classes, frame order ${order}`, [{
    type: "heatmap", z: share, zmin: 0, zmax: 100, xgap: few ? 1 : 0, ygap: few ? 1 : 0,
    // Rare confusions show: the scale rises steeply near zero.
    colorscale: [[0, colour("page")], [0.05, mix(few ? 0.3 : 0.55)], [0.3, mix(few ? 0.6 : 0.8)], [1, colour(order)]],
    customdata: counts.map((row, label) => row.map((videos, called) => videos
      ? `${plain(classes[label])} called ${plain(classes[called])}: ${videos} videos` : `${plain(classes[label])} never called ${plain(classes[called])}`)),
    hovertemplate: "%{customdata}, %{z:.1f} %<extra></extra>",
    showscale: size >= 500, colorbar: { thickness: 10, outlinewidth: 0, ticksuffix: " %", nticks: 5 },
  }], {
    xaxis: { side: "bottom", tickangle: few ? (size < 500 ? -90 : -40) : 0, showgrid: false, zeroline: false, ...ticks,
             title: { text: few ? "" : "called (class number, names on hover)" } },
    yaxis: { autorange: "reversed", showgrid: false, zeroline: false, ...ticks, title: { text: few ? "" : "class" } },
    annotations: numbers,
  });
}

// Between the page and the colour of the order chosen.
function mix(part) {
  const channels = (name) => colour(name).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  const from = channels("page"), to = channels(byId("confusion-order").value);
  return `rgb(${from.map((value, index) => Math.round(value + part * (to[index] - value))).join(",")})`;
}
