// The panel that shows one picture of the list, before and after.

import { startView } from "./slider.js";
import { degraded } from "./requests.js";

const panel = document.querySelector("#view");
const frame = panel.querySelector(".frame");
const slider = panel.querySelector(".slider");
const failure = panel.querySelector("[role=alert]");
const saving = panel.querySelector("#saving");
const originals = panel.querySelectorAll("img.before, img.original");
const after = panel.querySelector("img.after");

let shown = null; // the picture of the list
let wanted = {}; // the files {before, result} that are shown, or on their way
let addresses = []; // of these

startView(frame, panel.querySelector("#zoom"));

// Show a picture of the list as it is now; null: none. `failed(picture, error)` is told if it cannot
// be read.
export async function show(picture, failed) {
  shown = picture;
  panel.hidden = !picture;
  if (!picture) {
    clear();
    return;
  }
  panel.querySelector("#shown").textContent = picture.name;
  fail(picture.state === "failed" ? picture.message : "");
  panel.classList.remove("unreadable");
  const result = picture.result;
  panel.classList.toggle("restored", Boolean(result));
  for (const part of panel.querySelectorAll("#saving, #details")) part.hidden = !result;
  showStrength(picture.strength);
  showDetails(result?.report);
  try {
    await load(picture, result);
  } catch (error) {
    if (shown !== picture) return;
    panel.classList.add("unreadable");
    failed(picture, error);
  }
}

export function fail(message) {
  failure.textContent = message;
  failure.hidden = !message;
}

// What is saved has the same mixture of the two, made by the server.
export function showStrength(strength) {
  slider.style.setProperty("--strength", strength);
  saving.strength.value = strength;
  saving.querySelector("output").textContent = strength.toFixed(2);
}

async function load(picture, result) {
  const before = result?.before ?? picture.preview ?? picture.file;
  const files = { before, result: result?.picture ?? before };
  if (files.before === wanted.before && files.result === wanted.result) return;
  wanted = files;
  // Never the result of another picture, nor an older one, while this one is being read.
  panel.classList.add("loading");
  try {
    await put(files.before, files.result);
  } catch {
    if (wanted !== files) return; // something else is shown by now
    wanted = {};
    if (before !== picture.file) throw new Error(`${picture.name}: this browser cannot show it`);
    // A format that the browser does not know, or a damaged file: the server says which.
    picture.preview = await degraded(picture.file, picture.name, "");
    if (shown === picture) await load(picture, picture.result);
    return;
  }
  if (wanted === files) panel.classList.remove("loading");
}

// Forget the files that were shown, so that the browser can free them.
function clear() {
  wanted = {};
  addresses.forEach(URL.revokeObjectURL);
  addresses = [];
  for (const image of [...originals, after]) image.removeAttribute("src");
}

async function put(before, result) {
  addresses.forEach(URL.revokeObjectURL);
  addresses = [before, result].map((blob) => URL.createObjectURL(blob));
  for (const image of originals) image.src = addresses[0];
  after.src = addresses[1];
  await Promise.all([...originals, after].map((image) => image.decode()));
}

function showDetails(report) {
  const items = (report?.notes ?? []).map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  });
  panel.querySelector(".notes").replaceChildren(...items);
  // A row for each decoder block and expert that ran there: tiles may take different ones.
  const rows = (report?.rows ?? []).map(({ block, scale, expert, window, tiles, of }) => {
    const row = document.createElement("tr");
    const side = window * scale;
    for (const text of [
      block,
      scale === 1 ? "full" : `1/${scale}`,
      expert,
      `${window} x ${window}`,
      `${side} x ${side} pixels`,
      of === 1 ? "the whole image" : `${tiles} of ${of} tiles`,
    ]) {
      row.insertCell().textContent = text;
    }
    return row;
  });
  panel.querySelector("tbody").replaceChildren(...rows);
}
