// What the page asks of its server. Every function rejects with an Error that tells the reason, or
// with an AbortError once `signal` is aborted.

async function send(path, parameters, body, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
  const answer = await fetch(`${path}?${query}`, { method: "POST", body, signal }).catch(async (error) => {
    if (error.name === "AbortError") throw error;
    await body.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error(`${parameters.name}: cannot be read: it is a folder, or was changed or removed`);
    });
    throw new Error(`${parameters.name}: no answer: is moceir app still running?`);
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

// A picture as the server reads it, upright, degraded if a kind is given: a PNG.
export async function degraded(file, name, kind, signal) {
  return (await send("degrade", { name, kind }, file, signal)).blob();
}

// The restored picture, a PNG, and the report about it; progress({done, tiles}) before each tile.
// settings: {tile, only, light}, as moceir.inference.settings has them; "" is the default.
export async function restored(file, name, settings, signal, progress) {
  const answer = await send("restore", { name, ...settings }, file, signal);
  const reader = answer.body.getReader();
  const cut = new Error(`${name}: the answer was cut short: is moceir app still running?`);
  let text = new Uint8Array();
  let report = null;
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : cut;
    });
    if (done) break;
    if (report) {
      parts.push(value);
      continue;
    }
    text = joined(text, value);
    // Lines of JSON; the one that has the number of bytes comes before the picture.
    for (let end; !report && (end = text.indexOf(10)) >= 0; text = text.subarray(end + 1)) {
      const message = JSON.parse(new TextDecoder().decode(text.subarray(0, end)));
      if (message.error) throw new Error(message.error);
      if (message.bytes) report = message;
      else progress(message);
    }
    if (report) parts.push(text);
  }
  const picture = new Blob(parts, { type: "image/png" });
  if (picture.size !== report?.bytes) throw cut;
  return { picture, report };
}

// A result as a file: {blob, notes}. choice: {strength, format, quality}.
export async function saved(original, result, name, choice) {
  const body = new Blob([original, result]);
  const answer = await send("save", { name, original: original.size, ...choice }, body);
  return { blob: await answer.blob(), notes: JSON.parse(answer.headers.get("Moceir-Notes")) };
}

function joined(a, b) {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
