"use strict";
const at = id => document.getElementById(id), base = document.body.dataset.base;
let token = "", image = null, turn = 0, baseSearches = false;

class Refusal extends Error {}

async function ask(path, options = {}) {
  const headers = token ? {Authorization: "Bearer " + token} : {};
  const response = await fetch(path, {...options, headers});
  const found = await response.json();
  if (response.status === 401) at("key").hidden = false;
  if (!response.ok) throw new Refusal(found.error || response.statusText);
  return found;
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").className = wrong ? "wrong" : "";
}

async function post(mask, what) {
  const form = new FormData();
  form.append("images", image, image.name || "image");
  const found = (await ask(`masks/${encodeURIComponent(mask)}/${what}`, {method: "POST", body: form})).results[0];
  if (found.error) throw new Refusal(found.error);
  return found;
}

async function start() {
  try {
    const found = await ask("masks");
    baseSearches = (await ask(`masks/${base}`)).searches;
    at("mask").replaceChildren(...found.masks.map(name => new Option(name, name)));
    at("mask").disabled = found.masks.length === 0;
    at("key").hidden = true;
    say(found.masks.length ? `${found.masks.length} specialists` : "There is no mask here yet.");
    await look();
  } catch (error) { say(error.message, true); }
}

function rows(list, pairs, bars) {
  list.replaceChildren(...pairs.map(([label, value]) => {
    const item = document.createElement("li"), name = document.createElement("span"), number = document.createElement("b");
    name.textContent = label;
    number.textContent = bars ? (100 * value).toFixed(1) + " %" : value.toFixed(3);
    item.append(name, number);
    if (bars) {
      const bar = document.createElement("progress");
      bar.max = 1; bar.value = value; bar.setAttribute("aria-label", label);
      item.append(bar);
    }
    return item;
  }));
}

function draw(canvas, x, top) {
  const across = 64, down = Math.ceil(x.length / across), context = canvas.getContext("2d");
  canvas.width = Math.min(across, x.length); canvas.height = down;
  x.forEach((value, place) => {
    const strength = Math.min(1, Math.abs(value) / top);
    context.fillStyle = value < 0 ? `rgba(33,102,172,${strength})` : `rgba(194,87,12,${strength})`;
    context.fillRect(place % across, Math.floor(place / across), 1, 1);
  });
}

function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  a.forEach((v, k) => { dot += v * b[k]; aa += v * v; bb += b[k] * b[k]; });
  return dot / Math.sqrt(aa * bb || 1);
}

async function look() {
  const mask = at("mask").value, mine = ++turn;
  if (!mask) return;
  try {
    const card = await ask(`masks/${encodeURIComponent(mask)}`);
    if (mine !== turn) return;
    at("card").textContent = `${(100 * (1 - card.density)).toFixed(2)} % of ${card.weights.toLocaleString("en")} weights off, ` +
      `${card.bytes.toLocaleString("en")} bytes, sees ${card.size} px` +
      (card.classes.length ? `, ${card.classes.length} classes` : "");
    if (!image) return;
    say("looking …");
    const [ours, theirs, labels] = await Promise.all(
      [post(mask, "embed"), post(base, "embed"), card.predicts ? post(mask, "predict") : null]);
    const [near, nearBase] = await Promise.all([
      card.searches ? post(mask, "search") : null, card.searches && baseSearches ? post(base, "search") : null]);
    if (mine !== turn) return;
    const top = Math.max(...ours.embedding.map(Math.abs), ...theirs.embedding.map(Math.abs)) || 1;
    draw(at("ours"), ours.embedding, top);
    draw(at("base"), theirs.embedding, top);
    at("ours-name").textContent = mask;
    at("alike").textContent = `Cosine of the two: ${cosine(ours.embedding, theirs.embedding).toFixed(3)}.`;
    at("seen").hidden = false;
    if (labels) rows(at("bars"), labels.top, true);
    at("labels").hidden = !labels;
    if (near) rows(at("near-ours"), near.found.map(one => [one.path, one.similarity]), false);
    if (nearBase) rows(at("near-base"), nearBase.found.map(one => [one.path, one.similarity]), false);
    at("near-name").textContent = mask;
    at("near-untouched").hidden = !nearBase;
    at("near").hidden = !near;
    say("");
  } catch (error) {
    if (mine !== turn) return;
    for (const id of ["labels", "seen", "near"]) at(id).hidden = true;
    say(error.message, true);
  }
}

function take(file) {
  if (!file) return;
  image = file;
  if (at("shown").src) URL.revokeObjectURL(at("shown").src);
  at("shown").src = URL.createObjectURL(file);
  at("shown").alt = file.name;
  at("shown").hidden = false;
  at("hint").hidden = true;
  look();
}

at("file").addEventListener("change", event => take(event.target.files[0]));
at("mask").addEventListener("change", look);
at("key").addEventListener("submit", event => { event.preventDefault(); token = at("token").value; start(); });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
start();
