// The charts of Plotly that are neither of frame orders nor of confusions.

function draw(id, label, traces, layout) {
  const ink = colour("soft"),
    line = colour("line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: true };
  const full = {
    margin: { l: 8, r: 12, t: 8, b: 8 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    showlegend: false,
    font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 12 },
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("card"), bordercolor: line, font: { color: colour("ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    ...layout,
  };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
    full[name] = { ...axis, ...layout[name] };
  byId(id).setAttribute("aria-label", label);
  return Plotly.react(id, traces, full, { displayModeBar: false, responsive: true, doubleClick: false });
}

const named = (pattern) =>
  Object.keys(data.curves)
    .filter((name) => pattern.test(name))
    .map((name, index) => [
      name,
      name.split("/").pop().replaceAll("_", " "),
      ["forward", "shuffle", "reverse", "freeze"][index % 4],
    ]);
// [title, [[column of metrics.csv, name, colour], ...], y axis]
const PANELS = [
  [
    "Loss",
    [
      ["train/loss", "train", "shuffle"],
      ["val/loss", "validation", "forward"],
    ],
    {},
  ],
  [
    multi ? "mAP (%)" : "Accuracy (%)",
    multi
      ? [
          ["train/mAP", "train", "shuffle"],
          ["val/mAP", "validation", "forward"],
        ]
      : [
          ["train/top1", "train top-1", "shuffle"],
          ["val/mean_class_accuracy", "mean class", "reverse"],
          ["val/top5", "top-5", "freeze"],
          ["val/top1", "top-1", "forward"],
        ],
    { rangemode: "tozero" },
  ],
  ["Learning rate", [["optim/lr", "learning rate", "forward"]], { exponentformat: "power", rangemode: "tozero" }],
  ["Throughput (clips per second)", named(/throughput|clips_per_sec/), { rangemode: "tozero" }],
  ["Waiting for data (share of the time)", named(/data_wait/), { rangemode: "tozero" }],
]
  .map(([title, lines, yaxis]) => [title, lines.filter(([name]) => data.curves[name]), yaxis])
  .filter(([, lines]) => lines.length);

function fillCurves() {
  if (!PANELS.length)
    byId("curves").append(
      element("p", { class: "note" }, "The run folder has no metrics.csv, hence no learning curves."),
    );
  PANELS.forEach(([title], index) =>
    byId("curves").append(
      element(
        "div",
        { class: "card" },
        element("h3", {}, title),
        element("div", { id: `curve-${index}`, class: "chart curve", role: "img" }),
      ),
    ),
  );
}

// The mean of the values around each: a noisy line's course.
function smoothed(values) {
  const reach = Math.floor(values.length / 40);
  return values.map((_, index) => {
    const around = values.slice(Math.max(0, index - reach), index + reach + 1);
    return around.reduce((sum, value) => sum + value, 0) / around.length;
  });
}

function drawCurves() {
  PANELS.forEach(([title, lines, yaxis], index) => {
    const traces = lines.flatMap(([name, label, shade]) => {
      const { step, value } = data.curves[name],
        noisy = step.length > 80 && name !== "optim/lr";
      const trace = {
        x: step,
        y: value,
        name: label,
        line: { color: colour(shade), width: 2 },
        showlegend: !noisy,
        mode: step.length < 25 ? "lines+markers" : "lines",
        marker: { size: 5 },
        opacity: noisy ? 0.3 : 1,
        hovertemplate: `${plain(label)}: %{y:.4g}<br>step %{x}<extra></extra>`,
      };
      return noisy
        ? [
            trace,
            { ...trace, y: smoothed(value), opacity: 1, hoverinfo: "skip", hovertemplate: null, showlegend: true },
          ]
        : [trace];
    });
    draw(`curve-${index}`, `${title} over training steps`, traces, {
      xaxis: { title: { text: "step" }, nticks: 6 },
      yaxis: { nticks: 6, ...yaxis },
      showlegend: lines.length > 1,
    });
  });
}

function fillCalibration() {
  const { bins, ece, nll } = metrics.calibration[headline];
  const used = bins.filter((bin) => bin.count),
    videos = used.reduce((sum, bin) => sum + bin.count, 0);
  const gap = used.reduce((sum, bin) => sum + (bin.confidence - bin.accuracy) * bin.count, 0) / videos;
  const verdict =
    Math.abs(gap) < 1
      ? "On average its scores are what they promise"
      : gap > 0
        ? `On average its scores promise more than is right, by ${gap.toFixed(1)} points`
        : `On average it is right more often than its scores say, by ${(-gap).toFixed(1)} points`;
  byId("calibration").append(
    element("h3", {}, "Calibration"),
    element(
      "p",
      { class: "about" },
      `${verdict}. Expected calibration error ${fixed(ece)} %, negative log likelihood ${fixed(nll, 3)} nats.`,
    ),
    element("div", { id: "calibration-chart", class: "chart", role: "img" }),
  );
  if (orders.length > 1)
    byId("calibration").append(
      element(
        "details",
        {},
        element("summary", {}, "In the other frame orders"),
        table(
          ["Frame order", "ECE %", "NLL"],
          orders.map((order) => [
            order,
            fixed(metrics.calibration[order].ece),
            fixed(metrics.calibration[order].nll, 3),
          ]),
        ),
      ),
    );
}

function drawCalibration() {
  const bins = metrics.calibration[headline].bins.filter((bin) => bin.count);
  const middle = bins.map((bin) => 50 * (bin.low + bin.high)),
    width = bins.map((bin) => 94 * (bin.high - bin.low));
  const noun = multi ? "scores" : "videos";
  const bar = (y, name, rest) => ({
    type: "bar",
    x: middle,
    y,
    width,
    name,
    hovertext: bins.map(
      (bin) =>
        `${bin.count} ${noun} scored ${(100 * bin.low).toFixed(0)} to ${(100 * bin.high).toFixed(0)} %: ` +
        `mean ${bin.confidence.toFixed(1)} %, right ${bin.accuracy.toFixed(1)} %`,
    ),
    hovertemplate: "%{hovertext}<extra></extra>",
    ...rest,
  });
  const told = bins.map((bin) => `score ${bin.confidence.toFixed(0)} %, right ${bin.accuracy.toFixed(0)} %`);
  byId("calibration-chart").style.height = "330px";
  draw(
    "calibration-chart",
    `Reliability diagram: ${told.join("; ")}`,
    [
      bar(
        bins.map((bin) => bin.accuracy),
        "right",
        { marker: { color: colour("forward"), opacity: 0.7, cornerradius: 2 } },
      ),
      {
        x: [0, 100],
        y: [0, 100],
        mode: "lines",
        line: { color: colour("ink"), dash: "dot", width: 1.5 },
        hoverinfo: "skip",
      },
      bar(
        bins.map((bin) => bin.count),
        noun,
        { yaxis: "y2", marker: { color: colour("soft"), cornerradius: 2 } },
      ),
    ],
    {
      xaxis: {
        range: [0, 100],
        title: { text: `score of ${multi ? "a class" : "the class called"} (%)` },
        showgrid: false,
        anchor: "y2",
        tickvals: [0, 25, 50, 75, 100],
      },
      yaxis: { range: [0, 102], domain: [0.3, 1], title: { text: "right (%)" }, tickvals: [0, 25, 50, 75, 100] },
      yaxis2: { domain: [0, 0.2], title: { text: noun }, nticks: 3, showgrid: false },
      bargap: 0,
    },
  );
}

const severalViews = metrics.views_curve?.order.length > 1;

function fillViews() {
  if (!severalViews) return byId("views").remove();
  const values = metrics.views_curve.top1[headline],
    gain = values.at(-1) - values[0];
  byId("views").append(
    element("h3", {}, "More views"),
    element(
      "p",
      { class: "about" },
      `Accuracy after the first 1, 2, … ${values.length} views of every video. ` +
        `The first alone: ${fixed(values[0])} %; all: ${fixed(values.at(-1))} % (${signed(gain)}).`,
    ),
    element("div", { id: "views-chart", class: "chart", role: "img" }),
  );
}

function drawViews() {
  const { order, top1, top5 } = metrics.views_curve,
    x = order.map((_, index) => index + 1);
  const line = (name, y, shade) => ({
    x,
    y,
    name,
    mode: x.length > 40 ? "lines" : "lines+markers",
    line: { color: colour(shade), width: 2 },
    marker: { size: 7 },
    hovertext: order.map(([clip, crop]) => `the last one: clip ${clip + 1}, crop ${crop + 1}`),
    hovertemplate: `${name} %{y:.1f} % with %{x} views<br>%{hovertext}<extra></extra>`,
  });
  const lowest = Math.min(...top1[headline], ...top5[headline]);
  byId("views-chart").style.height = "330px";
  draw(
    "views-chart",
    `Top-1 by the number of views: ${top1[headline].map((value) => value.toFixed(1)).join(", ")}`,
    [line("top-1", top1[headline], "forward"), line("top-5", top5[headline], "freeze")],
    {
      xaxis: { title: { text: "views" }, ...(x.length > 10 ? { nticks: 8, tickformat: "d" } : { tickvals: x }) },
      showlegend: true,
      yaxis: { ticksuffix: " %", range: [Math.max(0, Math.floor((lowest - 3) / 5) * 5), 100.6], nticks: 7 },
    },
  );
}

// A table of heat: what is left under each corruption, by severity.
function fillRobustness() {
  const { robustness } = metrics;
  if (!robustness) return [byId("robustness"), byId("robustness-link")].forEach((node) => node.remove());
  const { clean, severities, intervals } = robustness;
  const cell = (value, interval) =>
    element(
      "span",
      {
        class: "heat",
        style: `--heat: ${Math.max(0, Math.min(100, (100 * value) / clean))}%`,
        ...(interval ? { title: `95 % interval ${span(interval)}` } : {}),
      },
      fixed(value),
    );
  const names = Object.keys(robustness.mean).sort((a, b) => robustness.mean[a] - robustness.mean[b]);
  const left =
    robustness.relative == null
      ? ""
      : `, ${fixed(robustness.relative)} % of that without corruption (${fixed(clean)} %)`;
  byId("robustness-about").textContent =
    `${count(robustness.videos, "video")} after corruptions of growing severity, the most harmful first. ` +
    `Mean ${multi ? "mAP" : "accuracy"} under corruption ${fixed(robustness.mean_corruption_accuracy)} %${left}.`;
  byId("robustness-table").append(
    table(
      [`${mainName} %`, ...severities.map((severity) => `severity ${severity}`), "mean", "lost"],
      names.map((name) => [
        name.replaceAll("_", " "),
        ...severities.map((_, at) => cell(robustness[main][name][at], intervals?.[main][name][at])),
        cell(robustness.mean[name], intervals?.mean[name]),
        signed(robustness.mean[name] - clean),
      ]),
    ),
  );
}
