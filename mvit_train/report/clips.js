// The example videos, and the dialog that plays one.

const shows = (clip, called) => clip.labels.includes(called);
const truth = (clip) => clip.labels.map((label) => classes[label]).join(", ") || "none of the classes";
const urls = new Map();

// An address of the mp4 that stands in the page in base64.
function mp4Url(base64) {
  if (!urls.has(base64)) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    urls.set(base64, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
  }
  return urls.get(base64);
}

function clipCard(clip) {
  const [called, probability] = clip.predicted[headline];
  const picture = clip.mp4
    ? element(
        "span",
        { class: "picture" },
        element("video", { src: mp4Url(clip.mp4), preload: "auto", tabindex: "-1", "aria-hidden": "true" }),
      )
    : element("span", { class: "picture missing" }, "cannot be shown");
  const card = element(
    "button",
    { type: "button", class: "clip", "aria-haspopup": "dialog" },
    picture,
    element("span", { class: "truth" }, truth(clip)),
    element(
      "span",
      { class: shows(clip, called) ? "right" : "wrong" },
      shows(clip, called)
        ? `✓ ${multi ? `${classes[called]}, ` : ""}${percent(probability)}`
        : `✗ ${classes[called]}, ${percent(probability)}`,
    ),
  );
  if (clip.group === "hurt") {
    const [shuffled, certainty] = clip.predicted.shuffle;
    card.append(element("span", { class: "wrong" }, `shuffled: ${classes[shuffled]}, ${percent(certainty)}`));
  }
  if (clip.attention) card.append(element("span", { class: "tag" }, "with attention"));
  const video = card.querySelector("video");
  if (video) {
    video.muted = video.loop = true;
    video.addEventListener(
      "loadedmetadata",
      () => {
        video.currentTime = video.duration / 2;
      },
      { once: true },
    );
    for (const event of ["mouseenter", "focus"])
      card.addEventListener(event, () => calm() || video.play().catch(() => {}));
    for (const event of ["mouseleave", "blur"]) card.addEventListener(event, () => video.pause());
  }
  card.addEventListener("click", () => openClip(clip));
  return card;
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function fillClips() {
  const titles = multi
    ? {
        wrong: "The likeliest class is not shown",
        hurt: "The likeliest class is shown, until the frames are shuffled",
        right: "The likeliest class is shown",
      }
    : { wrong: "Wrong, and sure of it", hurt: "Right, until the frames are shuffled", right: "Right" };
  for (const [group, title] of Object.entries(titles)) {
    const cards = data.clips.filter((clip) => clip.group === group).map(clipCard);
    if (cards.length)
      byId("clip-groups").append(element("h3", {}, title), element("div", { class: "clips" }, ...cards));
  }
  byId("close").addEventListener("click", () => byId("dialog").close());
  byId("dialog").addEventListener("click", (event) => {
    if (event.target === byId("dialog")) byId("dialog").close();
  });
  byId("dialog").addEventListener("close", () => byId("dialog-body").replaceChildren());
}

function player(base64, label) {
  const video = element("video", { controls: "", loop: "", playsinline: "", src: mp4Url(base64), "aria-label": label });
  video.muted = true;
  video.autoplay = !calm();
  video.addEventListener("error", () =>
    video.replaceWith(element("p", { class: "note" }, "This browser cannot play the clip.")),
  );
  return video;
}

function openClip(clip) {
  const left = element("div"),
    right = element("div");
  left.append(clip.mp4 ? player(clip.mp4, `Video of ${truth(clip)}`) : element("p", { class: "note" }, clip.note));
  if (clip.attention)
    left.append(
      element("h3", {}, "Where the model looks"),
      player(clip.attention, `Attention of the model to ${truth(clip)}`),
    );
  if (clip.attention_note) left.append(element("p", { class: "note" }, clip.attention_note));
  right.append(
    element("h3", {}, onlyForward ? "Most likely" : `Most likely, frames ${headline}`),
    ...clip.top3.map(([called, probability]) =>
      element(
        "div",
        { class: "guess" },
        element(
          "div",
          {},
          element("span", { class: shows(clip, called) ? "right" : "" }, classes[called]),
          element("span", {}, percent(probability, 1)),
        ),
        element("i", { style: `width: ${100 * probability}%` }),
      ),
    ),
  );
  if (!onlyForward)
    right.append(
      element("h3", {}, "In each frame order"),
      table(
        ["Order", "called", "p"],
        orders.map((order) => {
          const [called, probability] = clip.predicted[order];
          return [order, `${shows(clip, called) ? "✓" : "✗"} ${classes[called]}`, percent(probability)];
        }),
        [2],
      ),
    );
  byId("dialog-title").textContent = truth(clip);
  byId("dialog-body").replaceChildren(left, right, element("p", { class: "file" }, clip.video));
  byId("dialog").showModal();
}
