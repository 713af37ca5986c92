"use strict";

// Sends a clip to the server and shows what comes back, line by line. Every text from outside becomes a text node.

const RECORD_SEC = 5;
const RECORDED = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];
const WORDS = { forward: "as they are", shuffle: "shuffled", reverse: "in reverse", freeze: "one, repeated" };

const byId = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
let about = null;
let request = null; // the clip on its way; another one takes its place
let urls = []; // of what is shown

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(id, text = "") {
  byId(id).textContent = text;
  byId(id).hidden = !text;
}

function urlOf(blob) {
  urls.push(URL.createObjectURL(blob));
  return urls.at(-1);
}

function bar(share, kind = "") {
  const inner = element("i");
  inner.style.width = `${100 * share}%`;
  return element("span", { class: `track ${kind}`, "aria-hidden": "true" }, inner);
}

async function send(file) {
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  clear();
  if (file.size > about.max_megabytes * 1e6) {
    say("error", `${file.name}: the file has ${(file.size / 1e6).toFixed(0)} MB, the limit is ${about.max_megabytes} MB`);
    return;
  }
  say("state", "Sending the file …");
  try {
    const answer = await fetch(`clips?name=${encodeURIComponent(file.name)}`, {
      method: "POST", body: file, headers: { "content-type": "application/octet-stream" }, signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    await forEachLine(answer.body, (line) => show(JSON.parse(line), file));
  } catch (error) {
    if (signal.aborted) return;
    const lost = error instanceof TypeError ? "the connection to the server was lost" : error.message;
    say("error", `${file.name}: ${lost}`);
  }
  say("state");
}

function clear() {
  urls.forEach(URL.revokeObjectURL);
  urls = [];
  byId("overlay").removeAttribute("src");
  byId("player").replaceChildren();
  byId("facts").replaceChildren();
  for (const id of ["result", "top", "time", "attention"]) byId(id).hidden = true;
  say("error");
  say("state");
}

async function forEachLine(body, action) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(action);
  }
}

function show(part, file) {
  if ("error" in part) throw new Error(part.error);
  if ("ahead" in part) {
    say("state", part.ahead ? `Waiting: ${part.ahead} ahead of you …` : "Reading and classifying the clip …");
  }
  if ("facts" in part) showClip(file, part.facts);
  if ("classes" in part) {
    if (!byId("player").hasChildNodes()) showClip(file, null);
    showClasses(part);
    showOrders(part);
    say("state", "Looking where the model looks …");
  }
  if ("attention" in part) {
    const bytes = Uint8Array.from(atob(part.attention), (letter) => letter.charCodeAt(0));
    byId("overlay").src = urlOf(new Blob([bytes], { type: "video/mp4" }));
    byId("attention").hidden = false;
    byId("overlay").play().catch(() => {}); // a browser may wait for a click
  }
}

function showClip(file, facts) {
  const player = facts
    ? element("video", { controls: "", loop: "", playsinline: "" })
    : element("img", { alt: "the image" });
  player.addEventListener("error", () => byId("player").replaceChildren(
    element("p", { class: "soft" }, "The browser cannot show this format; the model has read it.")));
  player.src = urlOf(file);
  byId("player").replaceChildren(player);
  player.muted = true; // or browsers do not let it play
  player.play?.().catch(() => {});
  const texts = { File: file.name };
  if (facts) {
    texts.Frames = facts.frames;
    texts.Rate = `${facts.fps.toFixed(1)} fps`;
    texts.Length = `${facts.seconds.toFixed(1)} s`;
    texts.Size = `${facts.width} × ${facts.height}`;
  }
  byId("facts").replaceChildren(...Object.entries(texts).map(
    ([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(text)))));
  byId("result").hidden = false;
}

function showClasses(part) {
  byId("notice").textContent = [part.notice, about.multi_label ? "Several classes may apply at once." : ""].join(" ").trim();
  byId("classes").replaceChildren(...part.classes.map((row) => element("li", {},
    element("span", { class: "name" }, element("span", {}, row.class), element("span", {}, percent(row.probability))),
    bar(row.probability),
    ...(row.views ? [element("span", { class: "soft" }, `the likeliest in ${row.views} of ${row.of} views`)] : []))));
  byId("top").hidden = false;
}

function showOrders(part) {
  const before = part.orders[0].class;
  byId("sentence").textContent = part.sentence;
  byId("forward-class").textContent = `Probability of ${before}`;
  byId("orders").replaceChildren(...part.orders.map((row) => element("tr", { class: row.order },
    element("th", { scope: "row" }, WORDS[row.order] ?? row.order),
    element("td", row.class === before ? {} : { class: "other" }, row.class),
    element("td", {}, percent(row.probability), bar(row.probability, row.order)),
    element("td", {}, percent(row.of_forward), bar(row.of_forward, row.order)))));
  byId("time").hidden = !part.sentence;
}

// The webcam: a preview, then a recording that ends by itself.

async function toggleCamera() {
  if (byId("preview").srcObject) return closeCamera();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: true });
    byId("preview").srcObject = stream;
    await byId("preview").play();
    say("error");
    byId("preview").hidden = byId("record").hidden = false;
    byId("camera").textContent = "Close the webcam";
  } catch (error) {
    say("error", `The webcam cannot be used: ${error.message}`);
  }
}

function closeCamera() {
  byId("preview").srcObject.getTracks().forEach((track) => track.stop());
  byId("preview").srcObject = null;
  byId("preview").hidden = byId("record").hidden = true;
  byId("camera").textContent = "Use the webcam";
}

function record() {
  const mimeType = RECORDED.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(byId("preview").srcObject, { mimeType });
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  recorder.onstop = () => {
    closeCamera();
    const kind = mimeType.split(";")[0];
    send(new File(pieces, `webcam.${kind.split("/")[1]}`, { type: kind }));
  };
  recorder.start();
  const left = (seconds) => {
    byId("record").textContent = seconds > 0 ? `Recording: ${seconds} s` : "Record";
    if (seconds > 0) setTimeout(left, 1000, seconds - 1);
    else recorder.stop();
    byId("record").disabled = byId("camera").disabled = seconds > 0;
  };
  left(Math.min(RECORD_SEC, Math.floor(about.max_seconds)));
}

async function start() {
  about = await (await fetch("about")).json();
  byId("about").textContent = `${about.source}: ${about.classes} classes, ${about.views} views (clips × crops) of each video`;
  byId("limits").textContent = `Up to ${about.max_megabytes} MB and ${about.max_seconds} s. Your file is deleted from the server once it is answered.`;
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    byId("camera").disabled = true;
    byId("camera").title = "Browsers give a page the webcam on this machine or over https only";
  }
  byId("file").addEventListener("change", () => {
    if (byId("file").files.length) send(byId("file").files[0]);
    byId("file").value = ""; // the same file may be chosen again
  });
  for (const kind of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      byId("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
    });
  }
  byId("camera").addEventListener("click", toggleCamera);
  byId("record").addEventListener("click", record);
  document.body.dataset.ready = "true";
}

start();
