// The temporal report card: the frame orders, what they change, and the classes that need time.

const MEANING = {
  forward: "as filmed",
  shuffle: "all frames in random order",
  reverse: "played backwards",
  freeze: "the middle frame, repeated",
  jumble_2: "blocks of 2 in random order",
  jumble_4: "blocks of 4 in random order",
  half_rate: "every second frame, held twice",
  shuffle_2: "another random order",
  shuffle_3: "a third random order",
};
const several = (metrics.shuffles?.orders.length ?? 0) > 1;

// What the shuffles say, in words, with the interval that says how far it holds.
function orderSentence() {
  const { shuffles } = metrics;
  if (!shuffles) return null;
  const name = multi ? "mAP" : "top-1",
    [low, high] = shuffles.interval;
  const how = several
    ? `, ${shuffles.orders.length} shuffles give ${fixed(shuffles.lowest)} to ${fixed(shuffles.highest)} %`
    : "";
  if (high < 0)
    return (
      `Shuffling the frames costs ${fixed(-shuffles.change)} points of ${name} ` +
      `(95 % interval ${fixed(-high)} to ${fixed(-low)}${how}): the model uses their order.`
    );
  if (low > 0)
    return (
      `Shuffling the frames adds ${fixed(shuffles.change)} points of ${name} ` +
      `(95 % interval ${span(shuffles.interval)}${how}).`
    );
  return (
    `Shuffling the frames changes ${name} by ${signed(shuffles.change)} points, which cannot be told from none ` +
    `(95 % interval ${span(shuffles.interval, signed)}${how}): nothing here shows that the model uses their order.`
  );
}

function fillOrders() {
  if (onlyForward) byId("orders-about").textContent = "Evaluated with the frames as they are.";
  const sentence = orderSentence();
  if (sentence) byId("orders").insertBefore(element("p", { class: "lead" }, sentence), byId("order-card"));
  byId("order-title").textContent = multi ? "Mean average precision (%)" : "Top-1 accuracy (%)";
  byId("order-table").append(orderTable());
  const notes = ["Intervals are of 95 %, from the videos drawn anew again and again (bootstrap)."];
  const tested = multi ? "" : "; lost and won: videos that became wrong and right; p: McNemar's exact test";
  if (!onlyForward) notes.push(`Change: points against forward on the same videos${tested}.`);
  byId("order-table").append(element("p", { class: "note" }, notes.join(" ")));
  fillTime();
}

function orderTable() {
  const compared = Object.keys(metrics.card).length > 0,
    keys = multi ? [] : ["top5", "mean_class_accuracy"];
  const head = [
    "Frame order",
    `${mainName} %`,
    "interval",
    ...(multi ? [] : ["Top-5 %", "Mean class %"]),
    ...(compared ? ["Change", "interval", ...(multi ? [] : ["lost / won", "p"])] : []),
  ];
  const name = (order) =>
    element(
      "span",
      { class: "key", style: `--color: var(--${family(order)})` },
      order,
      ...(MEANING[order] ? [element("small", {}, MEANING[order])] : []),
    );
  const body = orders.map((order) => {
    const summary = metrics.orders[order],
      row = metrics.card[order];
    const change = row
      ? [signed(row.change), span(row.interval, signed), ...(multi ? [] : [`${row.lost} / ${row.won}`, pValue(row.p)])]
      : ["–", "–", ...(multi ? [] : ["–", "–"])];
    return [
      name(order),
      fixed(summary[main]),
      span(metrics.intervals[order][main]),
      ...keys.map((key) => fixed(summary[key])),
      ...(compared ? change : []),
    ];
  });
  if (several) {
    const { shuffles } = metrics;
    body.push([
      element(
        "span",
        { class: "key", style: "--color: var(--shuffle)" },
        "mean of the shuffles",
        element("small", {}, `${fixed(shuffles.lowest)} to ${fixed(shuffles.highest)}`),
      ),
      fixed(shuffles[main]),
      "–",
      ...keys.map(() => "–"),
      signed(shuffles.change),
      span(shuffles.interval, signed),
      ...(multi ? [] : ["–", "–"]),
    ]);
  }
  return table(head, body);
}

function drawOrders() {
  const values = orders.map((order) => metrics.orders[order][main]),
    bounds = orders.map((order) => metrics.intervals[order][main]);
  const chance = multi ? null : 100 / classes.length;
  byId("order-chart").style.height = `${32 * orders.length + 56}px`;
  draw(
    "order-chart",
    `${mainName}: ${orders.map((order, i) => `${order} ${fixed(values[i])} %`).join(", ")}`,
    [
      {
        type: "bar",
        orientation: "h",
        y: orders,
        x: values,
        marker: { color: orders.map((order) => colour(family(order))), cornerradius: 4 },
        error_x: {
          type: "data",
          symmetric: false,
          array: bounds.map((b, i) => (b ? b[1] - values[i] : 0)),
          arrayminus: bounds.map((b, i) => (b ? values[i] - b[0] : 0)),
          color: colour("ink"),
          thickness: 1.5,
          width: 4,
        },
        hovertext: orders.map((order, i) => `${order} ${fixed(values[i])} %, interval ${span(bounds[i])}`),
        hovertemplate: "%{hovertext}<extra></extra>",
        cliponaxis: false,
      },
    ],
    {
      margin: { l: 8, r: 22, t: 24, b: 8 },
      bargap: 0.35,
      xaxis: { range: [0, 100], tickvals: [0, 25, 50, 75, 100] },
      yaxis: {
        autorange: "reversed",
        tickvals: orders,
        ticktext: orders.map((order, i) => `${order}   <b>${fixed(values[i])}</b>  `),
        type: "category",
      },
      ...(chance
        ? {
            shapes: [
              {
                type: "line",
                x0: chance,
                x1: chance,
                y0: 0,
                y1: 1,
                yref: "paper",
                line: { color: colour("soft"), dash: "dot", width: 1.5 },
              },
            ],
            annotations: [
              {
                x: chance,
                y: 1,
                yref: "paper",
                yanchor: "bottom",
                xanchor: chance < 20 ? "left" : "center",
                text: `chance ${chance < 1 ? chance.toFixed(2) : fixed(chance)} %`,
                showarrow: false,
                font: { size: 11 },
              },
            ],
          }
        : {}),
    },
  );
}

// Classes that turn into each other in reverse.
function fillTime() {
  const { time } = metrics,
    panel = byId("time");
  if (!time) return panel.remove();
  panel.append(
    element("h3", {}, "Classes that turn into each other in reverse"),
    element(
      "p",
      { class: "about" },
      time.mirrored_pairs.length
        ? "Most videos of one are called the other when played backwards: only the order tells them apart."
        : `${data.sentence[0].toUpperCase()}${data.sentence.slice(1)}.`,
    ),
  );
  if (!time.mirrored_pairs.length) return;
  panel.append(
    table(
      ["Top-1 %", "mirrored classes", "other classes"],
      orders.map((order) => [order, fixed(time.mirrored[order]), fixed(time.other[order])]),
    ),
    element("ul", { class: "pairs" }, ...time.mirrored_pairs.map(([c, d]) => element("li", {}, `${c} ⇄ ${d}`))),
  );
}

const SHOWN = 10;

// One line per class: from its accuracy forward to that shuffled.
function fillNeed() {
  const { classes_that_need_time: need } = metrics,
    panel = byId("need");
  if (!need) return panel.remove();
  const lines = (shown) =>
    table(
      ["Class", "Videos", "shuffled ← forward", "Change", "interval"],
      shown.map((row) => {
        const low = Math.min(row.forward, row.shuffled),
          high = Math.max(row.forward, row.shuffled);
        return [
          row.class,
          row.videos,
          element(
            "span",
            { class: "dumbbell", title: `forward ${fixed(row.forward)} %, shuffled ${fixed(row.shuffled)} %` },
            element("i", { class: "bar-between", style: `left: ${low}%; width: ${high - low}%` }),
            element("i", { class: "dot", style: `left: ${row.shuffled}%; --color: var(--shuffle)` }),
            element("i", { class: "dot", style: `left: ${row.forward}%; --color: var(--forward)` }),
          ),
          signed(row.change),
          span(row.interval, signed),
        ];
      }),
      [1, 3, 4],
    );
  const sure = need.classes.filter((row) => row.interval && row.interval[1] < 0).length,
    judged = need.classes.filter((row) => row.interval).length;
  const body = element("div", {}, lines(need.classes.slice(0, SHOWN)));
  panel.append(
    element("h3", {}, "Classes that need time"),
    element(
      "p",
      { class: "about" },
      `Those that lose most ${multi ? "average precision" : "accuracy"} when shuffled. ` +
        (judged
          ? `${sure} of the ${judged} classes with at least ${need.enough_videos} videos clearly lose ` +
            "(their interval lies below zero)."
          : `No class has the ${need.enough_videos} videos that an interval needs: the order is a hint, no more.`),
    ),
    body,
  );
  if (need.classes.length <= SHOWN) return;
  const more = element("button", { type: "button", "aria-expanded": "false" }, `Show all ${need.classes.length}`);
  more.addEventListener("click", () => {
    const all = more.getAttribute("aria-expanded") === "false";
    more.setAttribute("aria-expanded", all);
    more.textContent = all ? `Show the first ${SHOWN}` : `Show all ${need.classes.length}`;
    body.replaceChildren(lines(all ? need.classes : need.classes.slice(0, SHOWN)));
  });
  panel.append(more);
}
