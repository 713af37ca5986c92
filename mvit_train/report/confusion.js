// The confusion map: classes that are taken for each other side by side, errors in another colour than what is right.

const LABELLED = 60,
  NUMBERED = 16,
  AROUND = 8,
  LISTED = 60; // classes with names, with numbers; beside a pair; pairs
const places = { similar: data.similar, list: classes.map((_, index) => index) };
const view = { x: null, y: null, pair: null }; // ranges of places, null for all; [label, called]

const currentOrder = () => byId("confusion-order").value;
const arranged = () => places[byId("confusion-sort").value];
const totalOf = (label) => rows[headline][label].videos;
const placeOf = () => {
  const place = [];
  arranged().forEach((index, at) => {
    place[index] = at;
  });
  return place;
};

function fillConfusion() {
  for (const order of orders) byId("confusion-order").append(element("option", { value: order }, order));
  byId("confusion-order").value = headline;
  byId("confusion-order").addEventListener("change", () => {
    view.pair = null;
    listPairs();
    drawConfusion();
  });
  byId("confusion-sort").addEventListener("change", () => {
    showAll();
  });
  byId("confusion-all").addEventListener("click", showAll);
  listPairs();
}

function showAll() {
  Object.assign(view, { x: null, y: null, pair: null });
  markPair();
  drawConfusion();
}

function listPairs() {
  const worst = data.confusions[currentOrder()]
    .filter(([label, called]) => label !== called)
    .sort((a, b) => b[2] - a[2] || b[2] / totalOf(b[0]) - a[2] / totalOf(a[0]))
    .slice(0, LISTED);
  byId("confused").replaceChildren(
    ...worst.map(([label, called, videos]) => {
      const button = element(
        "button",
        { type: "button", class: "pair", "aria-pressed": "false", "data-pair": `${label},${called}` },
        element("span", {}, classes[label], element("span", { class: "arrow" }, " called "), classes[called]),
        element("span", { class: "share" }, `${videos} of ${totalOf(label)}`),
      );
      button.addEventListener("click", () => showPair(label, called));
      return element("li", {}, button);
    }),
  );
  if (!worst.length)
    byId("confused").append(element("li", { class: "note" }, "No video was called by another class than its own."));
  markPair();
}

function markPair() {
  for (const button of byId("confused").querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.dataset.pair === String(view.pair));
  const found = view.pair && data.confusions[currentOrder()].find(([a, b]) => a === view.pair[0] && b === view.pair[1]);
  const back = view.pair && data.confusions[currentOrder()].find(([a, b]) => a === view.pair[1] && b === view.pair[0]);
  byId("confusion-text").textContent = !view.pair
    ? ""
    : `${classes[view.pair[0]]} called ${classes[view.pair[1]]}: ` +
      `${found?.[2] ?? 0} of ${count(totalOf(view.pair[0]), "video")}; ` +
      `the other way round: ${back?.[2] ?? 0} of ${totalOf(view.pair[1])}.`;
  byId("confusion-all").hidden = !view.x && !view.pair;
}

// The map around one pair, which is outlined.
function showPair(label, called) {
  view.pair = [label, called];
  const around = (place) => {
    const last = classes.length - 1,
      low = Math.max(0, Math.min(place - AROUND, last - 2 * AROUND));
    return [low - 0.5, Math.min(last, low + 2 * AROUND) + 0.5];
  };
  const place = placeOf();
  [view.x, view.y] = classes.length > 2 * AROUND + 1 ? [around(place[called]), around(place[label])] : [null, null];
  markPair();
  drawConfusion();
  byId("confusion-chart").scrollIntoView({ block: "nearest" });
}

const shareOf = ([label, , videos]) => (100 * videos) / totalOf(label);

function drawConfusion() {
  const total = classes.length,
    place = placeOf(),
    pairs = data.confusions[currentOrder()];
  const grid = (value) => Array.from({ length: total }, () => new Array(total).fill(value));
  const z = grid(null),
    text = grid("");
  for (const pair of pairs) {
    const [label, called, videos] = pair,
      [row, column] = [place[label], place[called]];
    z[row][column] = (label === called ? -1 : 1) * shareOf(pair); // what is right lies below zero, for its own colours
    text[row][column] =
      `${plain(classes[label])} called <b>${plain(classes[called])}</b><br>` +
      `${videos} of ${totalOf(label)} videos, ${shareOf(pair).toFixed(1)} %`;
  }
  const width = byId("confusion-chart").clientWidth,
    size = Math.min(width, 720);
  const all = [-0.5, total - 0.5],
    x = view.x ?? all,
    y = view.y ?? all;
  const shown = Math.max(x[1] - x[0], y[1] - y[0]);
  byId("confusion-chart").style.height = `${Math.min(size, shown < 20 ? 150 + 38 * shown : size)}px`;
  const scale = cellColours(shown > LABELLED);
  draw(
    "confusion-chart",
    `Confusion of ${total} classes, frame order ${currentOrder()}`,
    [
      {
        type: "heatmap",
        z,
        text,
        zmin: -100,
        zmax: 100,
        xgap: shown <= LABELLED ? 1 : 0,
        ygap: shown <= LABELLED ? 1 : 0,
        showscale: false,
        colorscale: scale.map(([value, channels]) => [(value + 100) / 200, `rgb(${channels.join(",")})`]),
        hovertemplate: "%{text}<extra></extra>",
        hoverongaps: false,
      },
    ],
    {
      plot_bgcolor: colour("page"),
      dragmode: total > NUMBERED ? "zoom" : false,
      xaxis: {
        ...confusionAxis(x, width < 500 ? 10 : 23),
        tickangle: -45,
        title: { text: shown > LABELLED ? "called" : "" },
      },
      yaxis: {
        ...confusionAxis([y[1], y[0]], width < 500 ? 10 : 23),
        title: { text: shown > LABELLED ? "class" : "" },
      },
      annotations: shown <= NUMBERED + 2 && width >= 420 ? numbers(pairs, place, x, y, scale) : [],
      shapes: view.pair ? [outline(place[view.pair[1]], place[view.pair[0]])] : [],
    },
  );
}

// Names where there is room for them; every cell is named under the pointer.
function confusionAxis(range, length) {
  const low = Math.ceil(Math.min(...range)),
    high = Math.floor(Math.max(...range)),
    few = high - low < LABELLED;
  const shown = few
    ? arranged()
        .map((_, at) => at)
        .slice(Math.max(low, 0), high + 1)
    : [];
  return {
    range,
    fixedrange: classes.length <= NUMBERED,
    showgrid: false,
    zeroline: false,
    tickvals: shown,
    showline: true,
    mirror: true,
    ticktext: shown.map((at) => plain(cut(classes[arranged()[at]], length))),
    tickfont: { size: shown.length > 30 ? 9 : 11 },
  };
}

// [value, [red, green, blue]]: from right (below zero) to wrong. Rare confusions show: the colours of what is wrong
// begin with a step, a greater one where a cell is a speck.
function cellColours(specks) {
  const wrong = (part) => mix("card", "bad", specks ? 0.5 + part / 2 : part);
  return [
    [-100, mix("card", "forward", 1)],
    [-0.01, mix("card", "forward", 0.2)],
    [0, wrong(0.28)],
    [5, wrong(0.45)],
    [30, wrong(0.75)],
    [100, wrong(1)],
  ];
}

// The text colour that stands out more from a cell of this value.
function readable(value, scale) {
  const above = scale.findIndex(([stop]) => stop >= value),
    [from, to] = [scale[Math.max(above - 1, 0)], scale[above]];
  const part = from === to ? 0 : (value - from[0]) / (to[0] - from[0]);
  const luminance = (channels) =>
    channels
      .map((channel) => (channel / 255) ** 2.2)
      .reduce((sum, light, at) => sum + light * [0.2126, 0.7152, 0.0722][at], 0.05);
  const cell = luminance(between(from[1], to[1], part)),
    [card, ink] = ["card", "ink"].map((name) => luminance(channelsOf(name)));
  const contrast = (text) => Math.max(text, cell) / Math.min(text, cell);
  return colour(contrast(card) > contrast(ink) ? "card" : "ink");
}

function numbers(pairs, place, x, y, scale) {
  const inside = ([label, called]) =>
    place[called] > x[0] && place[called] < x[1] && place[label] > y[0] && place[label] < y[1];
  return pairs.filter(inside).map((pair) => ({
    x: place[pair[1]],
    y: place[pair[0]],
    text: shareOf(pair).toFixed(0),
    showarrow: false,
    font: { color: readable((pair[0] === pair[1] ? -1 : 1) * shareOf(pair), scale), size: 11 },
  }));
}

function outline(x, y) {
  return {
    type: "rect",
    x0: x - 0.5,
    x1: x + 0.5,
    y0: y - 0.5,
    y1: y + 0.5,
    line: { color: colour("ink"), width: 2.5 },
  };
}

// A part of the way from one colour to another.
const channelsOf = (name) =>
  colour(name)
    .match(/[0-9a-f]{2}/gi)
    .map((pair) => parseInt(pair, 16));
const between = (start, end, part) => start.map((value, at) => Math.round(value + part * (end[at] - value)));
const mix = (from, to, part) => between(channelsOf(from), channelsOf(to), part);

// Names and numbers follow a box that was drawn with the pointer; a double click shows everything.
function followZoom() {
  byId("confusion-chart").on("plotly_relayout", (change) => {
    const range = (axis) => [change[`${axis}.range[0]`], change[`${axis}.range[1]`]];
    if (change["xaxis.range[0]"] === undefined && change["yaxis.range[0]"] === undefined) return;
    if (change["xaxis.range[0]"] !== undefined) view.x = range("xaxis");
    if (change["yaxis.range[0]"] !== undefined) view.y = range("yaxis").reverse();
    markPair();
    drawConfusion();
  });
  byId("confusion-chart").on("plotly_doubleclick", showAll);
}
