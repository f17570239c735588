"use strict";

const form = document.querySelector("form");
const drop = document.querySelector(".drop");
const input = drop.querySelector("input");
const restore = form.querySelector("button");
const status = document.querySelector("[role=status]");
const failure = document.querySelector("[role=alert]");
const result = document.querySelector("#result");
const experts = document.querySelector("#experts");
const download = document.querySelector("#download");
const maxBytes = Number(document.body.dataset.maxBytes);
let file = null;

startSlider(document.querySelector(".slider"));
startZoom(document.querySelector("#actual"), document.querySelector(".frame"));

function fail(message) {
  failure.textContent = message;
  failure.hidden = !message;
}

function choose(chosen) {
  if (!chosen) return;
  file = chosen;
  document.querySelector("#chosen").textContent = file.name;
  const fits = file.size <= maxBytes;
  restore.disabled = !fits;
  fail(fits ? "" : `${file.name} is ${(file.size / 1e6).toFixed(0)} MB; the limit is ${maxBytes / 1e6} MB`);
}

// The server's answer to an image; its reason as an Error if it refuses.
async function send(path, parameters, picture) {
  const query = new URLSearchParams(parameters);
  const answer = await fetch(`${path}?${query}`, { method: "POST", body: picture }).catch(() => {
    throw new Error("no answer: is moceir app still running?");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

async function showPicture(name, blob) {
  const image = document.querySelector(name);
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  await image.decode();
  return image.src;
}

// A row for each decoder block and expert that ran there: tiles may take different ones.
function showExperts(rows) {
  experts.querySelector("tbody").replaceChildren(
    ...rows.map(({ block, scale, expert, window, tiles, of }) => {
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
    }),
  );
}

async function run() {
  const kind = form.kind.value;
  const chosen = file;
  const before = await (await send("degrade", { kind }, chosen)).blob();
  const answer = await send(
    "restore",
    { strength: form.strength.value, tile: form.tile.value },
    kind ? before : chosen,
  );
  const after = await answer.blob();
  await showPicture(".before", before);
  download.href = await showPicture(".after", after);
  download.download = `${chosen.name.replace(/\.[^.]*$/, "")}-restored.png`;
  const { rows, notes } = JSON.parse(answer.headers.get("Moceir-Report"));
  showExperts(rows);
  result.hidden = experts.hidden = false;
  return notes;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  fail("");
  restore.disabled = true;
  const start = performance.now();
  const seconds = () => ((performance.now() - start) / 1000).toFixed(0);
  status.textContent = "Restoring";
  const timer = setInterval(() => (status.textContent = `Restoring, ${seconds()} s`), 1000);
  try {
    const notes = await run();
    status.textContent = [`Restored in ${seconds()} s`, ...notes].join("; ");
  } catch (error) {
    status.textContent = "";
    fail(error.message);
  } finally {
    clearInterval(timer);
    restore.disabled = false;
  }
});

form.strength.addEventListener("input", () => {
  document.querySelector("#shown").textContent = Number(form.strength.value).toFixed(2);
});
input.addEventListener("change", () => choose(input.files[0]));
// A picture dropped beside the field would otherwise replace the page.
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
document.addEventListener("dragover", () => drop.classList.add("over"));
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
