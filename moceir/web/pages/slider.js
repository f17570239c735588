"use strict";

// A before/after slider: an element that holds the pictures .before and .after and a range input,
// inside a .frame; by mouse, touch and pen through pointer events, by keyboard through the input.
function startSlider(slider) {
  const range = slider.querySelector("input");
  const after = slider.querySelector(".after");

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
  function fit() {
    slider.style.setProperty("--width", after.naturalWidth);
    slider.style.setProperty("--height", after.naturalHeight);
  }

  range.addEventListener("input", () => show(Number(range.value)));
  slider.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // or the browser would take the focus away again
    range.focus({ preventScroll: true });
    slider.setPointerCapture(event.pointerId);
    follow(event);
  });
  slider.addEventListener("pointermove", (event) => {
    if (slider.hasPointerCapture(event.pointerId)) follow(event);
  });
  after.addEventListener("load", fit);
  if (after.complete && after.naturalWidth) fit();
  show(50);
}

// A button that shows one pixel of the pictures as one pixel of the screen, and back.
function startZoom(button, frame) {
  button.addEventListener("click", () => {
    const actual = frame.classList.toggle("actual");
    frame.style.setProperty("--ratio", window.devicePixelRatio);
    button.setAttribute("aria-pressed", actual);
  });
}
