// A before/after view, used by `moceir app`, `moceir compare` and the report of `moceir evaluate`:
// a .frame that holds a .slider with the pictures .before and .after, a range input and a .line.

const LARGEST = 8; // of the screen's pixels for one of the picture's

// The slider by mouse, touch and pen through pointer events, by keyboard through the input; and
// buttons, added to `tools`, to zoom. An enlarged picture is moved by dragging it, by scrolling, or
// by the arrow keys when the frame has the focus.
export function startView(frame, tools) {
  const slider = frame.querySelector(".slider");
  const range = slider.querySelector("input");
  const line = slider.querySelector(".line");
  const after = slider.querySelector("img.after");
  let scale = 0; // CSS pixels for one of the picture's; 0: as large as fits
  let drag = null; // what is being dragged: "split", or "picture" with where it was last

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

  // As wide as fits: this is also what page.css gives a slider that is not zoomed.
  function fitting() {
    const { naturalWidth: width, naturalHeight: height } = after;
    return Math.min(frame.clientWidth / width, frame.clientHeight / height, 2);
  }
  // Enlarge the picture so that what is at (x, y) of the window, or in the middle, stays there.
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
  // Larger or smaller by a factor; what fits, where it would be smaller than that.
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
    out: button("\u2212", "Zoom out", () => step(1 / 1.5)),
    fit: button("Fit", "", () => zoom(0)),
    actual: button("Actual size", "", actual),
    in: button("+", "Zoom in", () => step(1.5)),
  };
  const group = document.createElement("span");
  group.className = "zoom";
  group.append(...Object.values(buttons));
  tools.append(group);

  range.addEventListener("input", () => show(Number(range.value)));
  slider.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const onSplit = event.target === line || !frame.classList.contains("zoomed");
    if (!onSplit && event.pointerType !== "mouse") return; // a finger scrolls
    event.preventDefault(); // or the browser would take the focus away again
    (onSplit ? range : frame).focus({ preventScroll: true });
    slider.setPointerCapture(event.pointerId);
    drag = onSplit ? {} : { x: event.clientX, y: event.clientY };
    if (onSplit) follow(event);
  });
  slider.addEventListener("pointermove", (event) => {
    if (!slider.hasPointerCapture(event.pointerId)) return;
    if (drag.x === undefined) return follow(event);
    frame.scrollBy(drag.x - event.clientX, drag.y - event.clientY);
    drag = { x: event.clientX, y: event.clientY };
  });
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

  function measure() {
    frame.style.setProperty("--width", after.naturalWidth);
    frame.style.setProperty("--height", after.naturalHeight);
  }
  after.addEventListener("load", measure);
  if (after.complete && after.naturalWidth) measure();
  show(50);
  zoom(0);
}
