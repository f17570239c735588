// The list of pictures: what is restored, saved and shown.

import { degraded, restored, saved } from "./requests.js";
import { fail, show, showStrength } from "./view.js";
import { zip } from "./zip.js";

const form = document.querySelector("form");
const drop = document.querySelector(".drop");
const input = drop.querySelector("input");
const list = document.querySelector(".pictures");
const restore = document.querySelector("#restore");
const cancelAll = document.querySelector("#cancel");
const status = document.querySelector("[role=status]");
const chosen = document.querySelector("#chosen");
const saving = document.querySelector("#saving");
const maxBytes = Number(document.body.dataset.maxBytes);

// Each {file, name, state, message, settings, result, preview, strength, row}. state is one of
// ready, waiting, running, restored, cancelled, failed. result: {before, given, picture, report}.
// Pictures and results stay in the browser; the server gets one at a time.
const pictures = [];
let selected = null;
let running = false;
let busySaving = false;

function add(files) {
  for (const file of files) {
    const picture = { file, name: file.name, strength: 1, row: makeRow() };
    picture.row.name.addEventListener("click", () => select(picture));
    picture.row.action.addEventListener("click", () => act(picture));
    picture.row.name.textContent = picture.row.name.title = file.name;
    list.append(picture.row.element);
    pictures.push(picture);
    if (file.size <= maxBytes) {
      change(picture, "ready", megabytes(file.size));
    } else {
      const sizes = `${megabytes(file.size)}; the limit is ${megabytes(maxBytes)}`;
      change(picture, "failed", `${file.name}: ${sizes}`);
    }
  }
  if (!selected && pictures.length) select(pictures[0]);
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function makeRow() {
  const element = document.createElement("li");
  const [name, action] = [0, 1].map(() => document.createElement("button"));
  const [bar, state] = ["progress", "span"].map((tag) => document.createElement(tag));
  name.type = action.type = "button";
  name.className = "name";
  state.className = "state";
  element.append(name, action, state, bar);
  return { element, name, state, bar, action };
}

// Give a picture another state, and show it.
function change(picture, state, message) {
  Object.assign(picture, { state, message });
  const { row } = picture;
  row.state.textContent = message;
  row.state.classList.toggle("failure", state === "failed");
  row.bar.hidden = state !== "running";
  row.bar.removeAttribute("value");
  row.bar.setAttribute("aria-label", `Progress of ${picture.name}`);
  const busy = state === "waiting" || state === "running";
  row.action.textContent = busy ? "Cancel" : "Remove";
  row.action.setAttribute("aria-label", `${row.action.textContent} ${picture.name}`);
  if (state !== "ready") status.textContent = `${picture.name}: ${message}`;
  if (state === "failed") status.textContent = message; // which names the file
  showButtons();
  if (picture === selected) select(picture);
}

function showButtons() {
  restore.disabled = !pictures.some(isPending);
  cancelAll.hidden = !running;
  document.querySelector("#save").disabled = busySaving;
  document.querySelector("#save-all").disabled = busySaving || !pictures.some(({ result }) => result);
}

// Whether "Restore" would do something for a picture: it has no result with these settings.
function isPending({ file, state, settings }) {
  if (file.size > maxBytes || state === "waiting" || state === "running") return false;
  return state !== "restored" || JSON.stringify(settings) !== JSON.stringify(choices());
}

// What is asked for: {kind, tile, only, light}.
function choices() {
  const kinds = [...chosen.querySelectorAll(":checked")].map(({ value }) => value);
  const only = form.wanted.value === "only" ? kinds.join() : form.wanted.value;
  return { kind: form.kind.value, tile: form.tile.value, only, light: form.light.value };
}

function select(picture) {
  selected = picture;
  for (const other of pictures) other.row.name.setAttribute("aria-current", other === picture);
  show(picture, (of, error) => {
    if (of.state === "ready") change(of, "failed", error.message);
    else if (of.state !== "failed") fail(error.message); // else its own message is shown
  });
}

// Cancel or remove a picture.
function act(picture) {
  if (picture.state === "running") {
    picture.controller.abort();
  } else if (picture.state === "waiting") {
    change(picture, "cancelled", "cancelled");
  } else {
    const at = pictures.indexOf(picture);
    pictures.splice(at, 1);
    picture.row.element.remove();
    const next = pictures[Math.min(at, pictures.length - 1)];
    (next?.row.name ?? input).focus();
    if (picture === selected) select(next ?? null);
    showButtons();
  }
}

async function restoreAll() {
  for (const picture of pictures.filter(isPending)) {
    picture.settings = choices();
    picture.result = null;
    change(picture, "waiting", "waiting");
  }
  if (running) return; // it goes on with these
  running = true;
  for (let next; (next = pictures.find(({ state }) => state === "waiting")); ) await run(next);
  running = false;
  const number = (state) => pictures.filter((picture) => picture.state === state).length;
  const counts = ["restored", "cancelled", "failed"].map((state) => `${number(state)} ${state}`);
  status.textContent = counts.filter((count) => !count.startsWith("0 ")).join(", ");
  showButtons();
}

async function run(picture) {
  const { file, name } = picture;
  const { kind, ...settings } = picture.settings;
  picture.controller = new AbortController();
  const { signal } = picture.controller;
  const start = performance.now();
  change(picture, "running", "restoring");
  try {
    const given = kind ? await degraded(file, name, kind, signal) : file;
    const { picture: result, report } = await restored(given, name, settings, signal, ({ done, tiles }) => {
      if (tiles === 1) return;
      picture.row.bar.value = done / tiles;
      picture.row.state.textContent = `tile ${done + 1} of ${tiles}`;
    });
    // The first of several frames, colours that had to be converted: not as the browser shows it.
    if (!kind && !report.as_shown) picture.preview ??= await degraded(file, name, "", signal);
    picture.result = { before: kind ? given : null, given, picture: result, report };
    const seconds = (performance.now() - start) / 1000;
    const time = `restored in ${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
    change(picture, "restored", [time, ...report.found].join("; "));
  } catch (error) {
    if (error.name === "AbortError") change(picture, "cancelled", "cancelled");
    else change(picture, "failed", error.message);
  }
}

function choice({ strength }) {
  const format = saving.format.value;
  return { strength, format, quality: format === "PNG" ? "" : saving.quality.value };
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the download has begun by then
}

// What is saved of a picture, as it is now: all of it may change while the server works.
function snapshot(picture) {
  return { name: picture.name, result: picture.result, wanted: choice(picture) };
}

// The file of one snapshot, under a name that is not yet among `taken`, which are in lower case:
// some file systems do not tell names apart by case.
async function fileOf({ name: original, result, wanted }, taken) {
  const { blob, notes } = await saved(result.given, result.picture, original, wanted);
  const stem = `${original.replace(/\.[^.]*$/, "").replace(/[\\/:]/g, "_")}-restored`;
  const suffix = { PNG: "png", JPEG: "jpg", WEBP: "webp" }[wanted.format];
  let name = `${stem}.${suffix}`;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${stem}-${number}.${suffix}`;
  taken.add(name.toLowerCase());
  return { name, blob, notes };
}

async function saveOne() {
  const { name, blob, notes } = await fileOf(snapshot(selected), new Set());
  save(name, blob);
  return [`${name} saved`, ...notes].join("; ");
}

async function saveAll() {
  const files = [];
  const taken = new Set();
  const all = pictures.filter((picture) => picture.result).map(snapshot);
  for (const picture of all) {
    status.textContent = `Preparing ${picture.name}, ${files.length + 1} of ${all.length}`;
    files.push(await fileOf(picture, taken));
  }
  save("restored.zip", await zip(files));
  const notes = files.flatMap(({ name, notes }) => notes.map((note) => `${name}: ${note}`));
  return [`restored.zip with ${files.length} images saved`, ...notes].join("; ");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  restoreAll();
});
form.addEventListener("change", () => {
  chosen.hidden = form.wanted.value !== "only";
  const missing = !chosen.hidden && !chosen.querySelector(":checked");
  form.wanted.setCustomValidity(missing ? "Choose at least one kind." : "");
  showButtons();
});
// In a closed <details>, what is wrong could not be shown.
form.addEventListener("invalid", () => (form.querySelector("details").open = true), true);
cancelAll.addEventListener("click", () => {
  for (const picture of pictures) {
    if (picture.state === "waiting" || picture.state === "running") act(picture);
  }
});
saving.addEventListener("submit", async (event) => {
  event.preventDefault();
  fail("");
  busySaving = true;
  showButtons();
  try {
    status.textContent = await (event.submitter.id === "save-all" ? saveAll() : saveOne());
  } catch (error) {
    status.textContent = "";
    fail(`Nothing was saved. ${error.message}`);
  } finally {
    busySaving = false;
    showButtons();
  }
});
saving.strength.addEventListener("input", () => {
  selected.strength = Number(saving.strength.value);
  showStrength(selected.strength);
});
saving.format.addEventListener("change", () => {
  saving.quality.disabled = saving.format.value === "PNG";
});
input.addEventListener("change", () => {
  add(input.files);
  input.value = ""; // so that the same file can be chosen again
});
// A picture dropped beside the field would otherwise replace the page.
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
document.addEventListener("dragover", () => drop.classList.add("over"));
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
