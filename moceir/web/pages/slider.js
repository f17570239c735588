// A before/after view, used by `moceir app`, `moceir compare` and the report of `moceir evaluate`:
// a .frame that holds a .slider with the pictures .before and .after, a range input and a .line.

const LARGEST = 8; // of the screen's pixels for one of the picture's
const STEP = 1.5;

// The line between the pictures, moved by mouse, touch and pen through pointer events, by keyboard
// through the input; and buttons to zoom, added to `tools`.
export function startView(frame, tools) {
  const after = frame.querySelector("img.after");
  function measure() {
    frame.style.setProperty("--width", after.naturalWidth);
    frame.style.setProperty("--height", after.naturalHeight);
  }
  after.addEventListener("load", measure);
  if (after.complete && after.naturalWidth) measure();
  startLine(frame);
  startZoom(frame, tools);
}

function startLine(frame) {
  const slider = frame.querySelector(".slider");
  const range = slider.querySelector("input");
  const line = slider.querySelector(".line");
  let last = null; // where the pointer was that drags the picture; null: it drags the line

  function show(percent) {
    slider.style.setProperty("--at", `${percent}%`);
    range.value = percent;
    const before = Math.round(percent);
    range.setAttribute("aria-valuetext", `${before} % before, ${100 - before} % after`);
  }
  function follow(event) {
    const box = slider.getBoundingClientRect();
    show(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
  }

  range.addEventListener("input", () => show(Number(range.value)));
  slider.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const onLine = event.target === line || !frame.classList.contains("zoomed");
    if (!onLine && event.pointerType !== "mouse") return; // a finger scrolls
    event.preventDefault(); // or the browser would take the focus away again
    (onLine ? range : frame).focus({ preventScroll: true });
    slider.setPointerCapture(event.pointerId);
    last = onLine ? null : event;
    if (onLine) follow(event);
  });
  slider.addEventListener("pointermove", (event) => {
    if (!slider.hasPointerCapture(event.pointerId)) return;
    if (!last) return follow(event);
    frame.scrollBy(last.clientX - event.clientX, last.clientY - event.clientY);
    last = event;
  });
  show(50);
}

// An enlarged picture is moved by dragging it, by scrolling, or by the arrow keys.
function startZoom(frame, tools) {
  const slider = frame.querySelector(".slider");
  const after = slider.querySelector("img.after");
  let scale = 0; // CSS pixels for one of the picture's; 0: as large as fits

  // The scale of what fits, which page.css gives a slider that is not zoomed.
  function fitting() {
    const { naturalWidth: width, naturalHeight: height } = after;
    return Math.min(frame.clientWidth / width, frame.clientHeight / height, 2);
  }
  // Change the scale so that what is at (x, y) of the window, or in the middle, stays there.
  function zoom(to, x, y) {
    const room = frame.getBoundingClientRect();
    x ??= room.left + room.width / 2;
    y ??= room.top + room.height / 2;
    const old = slider.getBoundingClientRect();
    scale = Math.min(to, LARGEST / devicePixelRatio);
    frame.classList.toggle("zoomed", scale > 0);
    frame.classList.toggle("pixels", scale * devicePixelRatio >= 1);
    slider.style.setProperty("--scale", scale);
    const now = slider.getBoundingClientRect();
    frame.scrollLeft += now.left - x + ((x - old.left) / old.width) * now.width;
    frame.scrollTop += now.top - y + ((y - old.top) / old.height) * now.height;
    buttons.actual.setAttribute("aria-pressed", scale === 1 / devicePixelRatio);
    buttons.fit.setAttribute("aria-pressed", scale === 0);
  }
  // Larger or smaller by a factor, but not smaller than what fits.
  function step(factor, x, y) {
    const to = (scale || fitting()) * factor;
    zoom(to <= fitting() ? 0 : to, x, y);
  }
  function button(text, label, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    if (label) made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  }
  const actual = () => zoom(scale === 1 / devicePixelRatio ? 0 : 1 / devicePixelRatio);
  const buttons = {
    out: button("\u2212", "Zoom out", () => step(1 / STEP)),
    fit: button("Fit", "", () => zoom(0)),
    actual: button("Actual size", "", actual),
    in: button("+", "Zoom in", () => step(STEP)),
  };
  const group = document.createElement("span");
  group.className = "zoom";
  group.append(...Object.values(buttons));
  tools.append(group);

  frame.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return; // also how browsers report a pinch on a touchpad
      event.preventDefault();
      step(1.002 ** -event.deltaY, event.clientX, event.clientY);
    },
    { passive: false },
  );
  frame.addEventListener("keydown", (event) => {
    const action = { "+": buttons.in, "=": buttons.in, "-": buttons.out, 0: buttons.fit }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action.click();
  });
  zoom(0);
}
