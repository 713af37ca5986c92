// The summary, the data, the run; and what draws everything, anew when the colours or the width change.

const [numClips, numCrops] = String(metrics.views).split("x").map(Number);
const viewsText = numCrops ? `${count(numClips, "clip")} × ${count(numCrops, "crop")}` : String(metrics.views);
const created = String(metrics.created).replace("T", " ").replace("+00:00", " UTC");

function fillHeadline() {
  const { videos } = metrics,
    best = metrics.orders[headline],
    intervals = metrics.intervals[headline];
  const shown = multi
    ? [["mAP", "mAP"]]
    : [
        ["Top-1", "top1"],
        ["Top-5", "top5"],
        ["Mean class accuracy", "mean_class_accuracy"],
      ];
  byId("subtitle").textContent =
    `${metrics.split} split · ${count(classes.length, "class")} · ${count(videos.evaluated, "video")} · ${created}`;
  for (const [label, key] of shown) {
    const band = key === main ? data.expected?.band : null;
    byId("numbers").append(
      element(
        "div",
        { class: "card number" },
        element("span", { class: "label" }, label),
        element("b", {}, fixed(best[key]), element("small", {}, " %")),
        strip(best[key], intervals[key], band),
        element("span", {}, intervals[key] ? `95 % interval ${span(intervals[key])}` : ""),
      ),
    );
  }
  if (data.expected)
    byId("expected").append(
      element("strong", {}, "Expected: "),
      `${data.expected.text}.`,
      verdict(),
      element("span", { class: "note" }, ` ${data.expected.file}, as it is`),
    );
  else byId("expected").remove();
  fillFacts();
}

function verdict() {
  if (!data.expected.band) return "";
  const value = Number(fixed(metrics.orders[headline][main])),
    [low, high] = data.expected.band;
  const [word, kind] = value < low ? ["below", "wrong"] : value > high ? ["above", "right"] : ["within", "right"];
  return element("span", { class: `badge ${kind}` }, `${fixed(value)} % is ${word} it`);
}

function fillFacts() {
  const { videos, checkpoint, model, linear_probe: probe, early_exit: early } = metrics;
  const step = checkpoint.global_step == null ? "weights from elsewhere" : `step ${checkpoint.global_step}`;
  const large = (value) =>
    value >= 1e6 ? `${(value / 1e6).toFixed(1)} M` : value >= 1e3 ? `${(value / 1e3).toFixed(0)} k` : String(value);
  const facts = [
    ["Videos", `${videos.evaluated} of ${videos.expected} evaluated, ${videos.failed} failed`],
    ["Views", `${viewsText} per video, ${metrics.ensemble} ${multi ? "sigmoid" : "softmax"}`],
    ...(model
      ? [
          [
            "Model",
            `${large(model.params)} parameters` +
              (model.gflops == null ? "" : `, ${Number(model.gflops.toPrecision(3))} G multiply-adds a view`),
          ],
        ]
      : []),
    ["Checkpoint", `${step} · ${checkpoint.fingerprint}`],
  ];
  byId("facts").append(
    ...facts.map(([name, fact]) => element("div", {}, element("dt", {}, name), element("dd", {}, fact))),
  );
  const details = {
    ...(onlyForward ? {} : { "Frame order of the headline": headline }),
    "Checkpoint file": checkpoint.path,
    Step: checkpoint.epoch == null ? step : `${step} (epoch ${checkpoint.epoch})`,
    "Checkpoint fingerprint": checkpoint.fingerprint,
    "Label fingerprint": metrics.label_fingerprint,
    ...(metrics.known_labels ? { "Class list": metrics.known_labels } : {}),
    ...(metrics.label_note ? { Classes: metrics.label_note } : {}),
    ...(early
      ? {
          "Early exit":
            `margin ${early.margin}; views scored of a video: ` +
            Object.entries(early.views)
              .map(([order, number]) => `${order} ${number.toFixed(2)}`)
              .join(", "),
        }
      : {}),
    "Data fingerprint": metrics.data_fingerprint,
    ...(model ? { Parameters: model.params.toLocaleString("en") } : {}),
    ...(probe
      ? {
          "Linear probe":
            `top-1 ${fixed(probe.top1)} % on frozen features of the start, ` +
            `fine-tuned ${fixed(probe.fine_tuned_top1)} %; one centre view`,
        }
      : {}),
    Views: `${metrics.views}: ${viewsText} per video`,
    Intervals: `95 %, ${metrics.statistics.resamples} resamples, seed ${metrics.statistics.seed}`,
    Created: created,
  };
  for (const [name, fact] of Object.entries(details))
    byId("provenance").append(element("dt", {}, name), element("dd", {}, String(fact)));
  byId("config").textContent = JSON.stringify(data.config, null, 2);
}

// The health of the data: what failed, what was replaced, how many videos the classes have.
function fillData() {
  const { failures, substituted, videos } = metrics;
  const sizes = rows[headline].map((row) => row.videos).sort((a, b) => a - b);
  const bad = [
    [
      failures,
      `${failures.length} of ${count(videos.expected, "video")} could not be evaluated`,
      "The numbers on this page are of the other videos only.",
    ],
    [
      substituted,
      `${count(substituted.length, "training video")} could not be read`,
      "Others were trained on in their place.",
    ],
  ];
  byId("health").append(
    element(
      "p",
      {},
      `${videos.evaluated} of ${videos.expected} videos evaluated, ${videos.failed} failed; ` +
        `${count(substituted.length, "training video")} replaced. ` +
        `Videos per class: ${sizes[0]} to ${sizes.at(-1)}, median ${sizes[Math.floor(sizes.length / 2)]}.`,
    ),
  );
  for (const [list, title, consequence] of bad.filter(([found]) => found.length)) {
    byId("failures").append(
      element(
        "p",
        { class: "card warning", role: "alert" },
        element("strong", {}, `${title}. `),
        consequence,
        " ",
        element("a", { href: "#data-health" }, "Which, and why"),
      ),
    );
    byId("health").append(
      element("h3", {}, title),
      element(
        "div",
        { class: "tall", tabindex: "0", role: "region", "aria-label": title },
        table(
          ["Video", "Reason"],
          list.map(({ video, reason }) => [video, reason]),
          [],
        ),
      ),
    );
  }
}

function drawAll() {
  drawCurves();
  drawOrders();
  drawCalibration();
  if (severalViews) drawViews();
  if (!multi) drawConfusion();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light colours" : "Dark colours";
  drawAll();
}

function followPage() {
  const theme = () => document.documentElement.dataset.theme;
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  byId("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", () => setTheme(preferred.matches ? "dark" : "light"));
  let width = window.innerWidth,
    waiting = 0;
  addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar comes and goes
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  let before = theme();
  addEventListener("beforeprint", () => {
    // on paper: black on white, as wide as a page
    before = theme();
    document.body.classList.add("paper");
    setTheme("light");
  });
  addEventListener("afterprint", () => {
    document.body.classList.remove("paper");
    setTheme(before);
  });
}

fillHeadline();
fillData();
fillCurves();
fillOrders();
fillNeed();
fillCalibration();
fillViews();
fillRobustness();
if (multi) {
  byId("confusion").remove();
  byId("confusion-link").remove();
} else fillConfusion();
fillClasses();
fillClips();
setTheme(document.documentElement.dataset.theme);
if (!multi) followZoom();
followPage();
