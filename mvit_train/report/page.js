
// Builds an element; every string becomes a text node, so nothing in the data is ever read as HTML.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// `figures`: columns of numbers in a table of texts, which are set to the right.
function table(head, body, figures = null) {
  const cell = (tag, attributes, text, column) =>
    element(tag, { ...attributes, ...(figures?.includes(column) ? { class: "figure" } : {}) }, String(text));
  const rows = body.map((row) => element("tr", {}, ...row.map((text, column) =>
    column ? cell("td", {}, text, column) : cell("th", { scope: "row" }, text, column))));
  return element("div", { class: "scroll" }, element("table", figures ? { class: "text" } : {},
    element("thead", {}, element("tr", {}, ...head.map((text, column) => cell("th", { scope: "col" }, text, column)))),
    element("tbody", {}, ...rows)));
}

// A single order has nothing to be compared with; so has a clip of one frame.
const onlyForward = orders.length === 1 && headline === "forward";

function fillHeadline() {
  const { videos, checkpoint, linear_probe: probe } = metrics, best = metrics.orders[headline];
  const [clips, crops] = String(metrics.views).split("x");
  const views = crops ? `${clips} ${clips === "1" ? "clip" : "clips"} × ${crops} ${crops === "1" ? "crop" : "crops"} per video` : metrics.views;
  const created = String(metrics.created).replace("T", " ").replace("+00:00", " UTC");
  byId("subtitle").textContent = `${metrics.split} split · ${classes.length} classes · ${videos.evaluated} videos · ${created}`;
  for (const [label, key] of multi ? [["mAP", "mAP"]] : [["Top-1", "top1"], ["Top-5", "top5"], ["Mean class accuracy", "mean_class_accuracy"]]) {
    byId("numbers").append(element("div", { class: "card number" },
      element("b", {}, best[key].toFixed(1), element("small", {}, " %")), element("span", {}, label)));
  }
  const step = checkpoint.global_step === null ? "not trained here" : `step ${checkpoint.global_step}`;
  byId("made").textContent =
    `${videos.evaluated} of ${videos.expected} videos evaluated, ${videos.failed} failed · ${views}, ${metrics.ensemble} ${multi ? "sigmoid" : "softmax"} · ` +
    `${onlyForward ? "" : `frames ${headline} · `}checkpoint ${step}, ${checkpoint.fingerprint} · labels ${metrics.label_fingerprint}`;
  const facts = {
    Videos: `${videos.expected} expected, ${videos.evaluated} evaluated, ${videos.failed} failed`,
    Views: `${metrics.views}: ${views}`, ...(onlyForward ? {} : { "Frame order of the headline": headline }), Checkpoint: checkpoint.path,
    Step: checkpoint.epoch === null ? step : `${step} (epoch ${checkpoint.epoch})`, "Checkpoint fingerprint": checkpoint.fingerprint,
    "Label fingerprint": metrics.label_fingerprint, ...(metrics.known_labels ? { "Class list": metrics.known_labels } : {}),
    ...(metrics.label_note ? { "Classes": metrics.label_note } : {}),
    ...(probe ? { "Linear probe": `top-1 ${probe.top1.toFixed(1)} % on frozen features of the start, fine-tuned ${probe.fine_tuned_top1.toFixed(1)} %; one centre view` } : {}),
    "Data fingerprint": metrics.data_fingerprint, Created: created,
  };
  for (const [name, fact] of Object.entries(facts)) byId("provenance").append(element("dt", {}, name), element("dd", {}, String(fact)));
  byId("config").textContent = JSON.stringify(data.config, null, 2);
}

function fillFailures() {
  const { failures, substituted, videos } = metrics;
  warn(failures, `${failures.length} of ${videos.expected} videos could not be evaluated`,
    "The numbers on this page are of the other videos only.");
  warn(substituted, `${substituted.length} training videos could not be read`, "Others were trained on in their place.");
}

function warn(list, title, consequence) {
  if (!list.length) return;
  byId("failures").append(element("section", { class: "card warning", role: "alert" },
    element("h2", {}, title), element("p", {}, consequence),
    element("details", list.length <= 5 ? { open: "" } : {}, element("summary", {}, "Which, and why"),
      table(["Video", "Reason"], list.map(({ video, reason }) => [video, reason]), []))));
}

function fillOrders() {
  if (onlyForward) byId("orders-about").textContent = "Evaluated with the frames as they are.";
  if (multi) byId("order-title").textContent = "Mean average precision";
  const keys = multi ? ["mAP"] : ["top1", "top5", "mean_class_accuracy"];
  const names = multi ? ["mAP %", "Change in mAP"] : ["Top-1 %", "Top-5 %", "Mean class %", "Change in top-1"];
  const head = ["Frame order", ...(onlyForward ? names.slice(0, -1) : names)];
  byId("order-table").append(table(head, orders.map((order) => {
    const summary = metrics.orders[order], change = metrics.change[order];
    const interval = change?.interval == null ? "" : ` ± ${change.interval.toFixed(1)}`;
    const signed = change && `${change[main] < 0 ? "−" : "+"}${Math.abs(change[main]).toFixed(1)}${interval}`;
    return [order, ...keys.map((key) => summary[key].toFixed(1)), ...(onlyForward ? [] : [signed ?? "–"])];
  })));
  if (!onlyForward) byId("order-table").append(element("p", { class: "note" },
    `Change: points against forward on the same videos${multi ? "" : ", with a 95 % interval"}.`));
  const { time } = metrics, panel = byId("time");
  if (!time) return panel.remove();
  panel.append(element("h3", {}, "Classes that turn into each other in reverse"),
    element("p", { class: "lead" }, data.sentence[0].toUpperCase() + data.sentence.slice(1) + "."),
    table(["Top-1 % of", ...orders], [["mirrored classes", "mirrored"], ["all other classes", "other"]].map(([title, group]) =>
      [title, ...orders.map((order) => time[group][order]?.toFixed(1) ?? "–")])),
    element("ul", { class: "pairs" }, ...time.mirrored_pairs.map(([c, d]) => element("li", {}, `${c} ⇄ ${d}`))));
}

// In place of the confusions, which several labels a video do not have.
function fillPrecisions() {
  byId("confusion").remove();
  byId("confusion-link").remove();
  const shown = classes.map((_, index) => index).filter((index) => rows[headline][index].videos);
  shown.sort((a, b) => rows[headline][b].AP - rows[headline][a].AP || a - b);
  const missing = classes.length - shown.length;
  byId("class-table").hidden = false;
  byId("class-table").append(element("h3", {}, "Average precision"),
    element("div", { class: "tall", tabindex: "0", role: "region", "aria-label": "Average precision of each class, scrolls" },
      table(["Class", "Videos that show it", ...orders.map((order) => (orders.length > 1 ? `AP %, ${order}` : "AP %"))],
        shown.map((index) => [classes[index], rows[headline][index].videos, ...orders.map((order) => accuracy(order, index).toFixed(1))]),
        [1, ...orders.map((_, number) => number + 2)])),
    ...(missing ? [element("p", { class: "note" }, `${missing} of ${classes.length} classes are shown by no video; the mean is over the others.`)] : []));
}

function fillConfused() {
  const total = rows[headline].map((row) => row.videos);
  const worst = data.confusions[headline].filter(([label, called]) => label !== called)
    .sort((a, b) => b[2] - a[2] || b[2] / total[b[0]] - a[2] / total[a[0]]).slice(0, 15);
  byId("confused").append(worst.length
    ? table(["Class", "was called", "Videos", "% of the class"], worst.map(([label, called, videos]) =>
      [classes[label], classes[called], videos, ((100 * videos) / total[label]).toFixed(1)]), [2, 3])
    : element("p", { class: "note" }, "No video was called by another class than its own."));
}

const shows = (clip, called) => clip.labels.includes(called);
const truth = (clip) => clip.labels.map((label) => classes[label]).join(", ") || "none of the classes";
const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}\u00a0%`;
const urls = new Map();
function clipUrl(index) {
  if (!urls.has(index)) {
    const bytes = Uint8Array.from(atob(data.clips[index].mp4), (letter) => letter.charCodeAt(0));
    urls.set(index, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
  }
  return urls.get(index);
}

function clipCard(clip, index) {
  const [called, probability] = clip.predicted[headline];
  const picture = clip.mp4
    ? element("span", { class: "picture" }, element("video", { src: clipUrl(index), preload: "auto", tabindex: "-1", "aria-hidden": "true" }))
    : element("span", { class: "picture missing" }, "cannot be shown");
  const card = element("button", { type: "button", class: "clip", "aria-haspopup": "dialog" }, picture,
    element("span", { class: "truth" }, truth(clip)),
    element("span", { class: shows(clip, called) ? "right" : "wrong" },
      shows(clip, called) ? `✓ ${multi ? `${classes[called]}, ` : ""}${percent(probability)}` : `✗ ${classes[called]}, ${percent(probability)}`));
  if (clip.group === "hurt") {
    const [shuffled, certainty] = clip.predicted.shuffle;
    card.append(element("span", { class: "wrong" }, `shuffled: ${classes[shuffled]}, ${percent(certainty)}`));
  }
  const video = card.querySelector("video");
  if (video) {
    video.muted = video.loop = true;
    video.addEventListener("loadedmetadata", () => { video.currentTime = video.duration / 2; }, { once: true });
    card.addEventListener("mouseenter", () => video.play().catch(() => {}));
    card.addEventListener("mouseleave", () => video.pause());
  }
  card.addEventListener("click", () => openClip(clip, index));
  return card;
}

function fillClips() {
  const titles = multi
    ? { wrong: "The likeliest class is not shown", hurt: "The likeliest class is shown, until the frames are shuffled", right: "The likeliest class is shown" }
    : { wrong: "Wrong, and sure of it", hurt: "Right, until the frames are shuffled", right: "Right" };
  for (const [group, title] of Object.entries(titles)) {
    const cards = data.clips.flatMap((clip, index) => (clip.group === group ? [clipCard(clip, index)] : []));
    if (cards.length) byId("clip-groups").append(element("h3", {}, title), element("div", { class: "clips" }, ...cards));
  }
}

function openClip(clip, index) {
  const left = element("div"), right = element("div"), note = (text) => left.replaceChildren(element("p", { class: "note" }, text));
  if (clip.mp4) {
    const video = element("video", { controls: "", loop: "", playsinline: "", src: clipUrl(index), "aria-label": `Video of ${truth(clip)}` });
    video.muted = true;
    video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    video.addEventListener("error", () => note("This browser cannot play the clip."));
    left.append(video);
  } else note(clip.note);
  right.append(element("h3", {}, onlyForward ? "Most likely" : `Most likely, frames ${headline}`), ...clip.top3.map(([called, probability]) =>
    element("div", { class: "guess" }, element("div", {},
      element("span", { class: shows(clip, called) ? "right" : "" }, classes[called]), element("span", {}, percent(probability, 1))),
      element("i", { style: `width: ${100 * probability}%` }))));
  if (!onlyForward) right.append(element("h3", {}, "In each frame order"), table(["Order", "called", "p"], orders.map((order) => {
    const [called, probability] = clip.predicted[order];
    return [order, `${shows(clip, called) ? "✓" : "✗"} ${classes[called]}`, percent(probability)];
  }), [2]));
  byId("dialog-title").textContent = truth(clip);
  byId("dialog-body").replaceChildren(left, right, element("p", { class: "file" }, clip.video));
  byId("dialog").showModal();
}

function fillControls() {
  for (const order of orders) {
    byId("legend").append(element("span", { class: "key", style: `--color: var(--${order})` }, `${order} ${metrics.orders[order][main].toFixed(1)} %`));
    byId("confusion-order")?.append(element("option", { value: order }, order));
  }
  for (const [key, [label]] of Object.entries(SORTS)) byId("sort").append(element("option", { value: key }, label));
  byId("sort").addEventListener("change", drawClasses);
  if (!multi) {
    byId("confusion-order").value = headline;
    byId("confusion-order").addEventListener("change", drawConfusion);
  }
  ["Loss", `${mainName} (%)`, "Learning rate"].forEach((title, index) =>
    byId("curves").append(element("div", { class: "card" }, element("h3", {}, title), element("div", { id: `curve-${index}`, class: "chart curve", role: "img" }))));
  if (!Object.keys(data.curves).length)
    byId("curves").replaceChildren(element("p", { class: "note" }, "The run folder has no metrics.csv, hence no learning curves."));
  byId("close").addEventListener("click", () => byId("dialog").close());
  byId("dialog").addEventListener("click", (event) => { if (event.target === byId("dialog")) byId("dialog").close(); });
  byId("dialog").addEventListener("close", () => byId("dialog-body").replaceChildren());
}

function drawAll() {
  drawCurves();
  drawOrders();
  drawClasses();
  if (!multi) drawConfusion();
}

fillHeadline();
fillFailures();
fillOrders();
if (multi) fillPrecisions();
else fillConfused();
fillControls();
fillClips();
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
