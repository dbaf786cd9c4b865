// Zoom and position that several panes share, by mouse, touch and keyboard.
const LARGEST = 12;
const STEP = 0.12;
const at = { zoom: 1, x: 0, y: 0 };

export function reset(root) {
  Object.assign(at, { zoom: 1, x: 0, y: 0 });
  draw(root);
}

export function draw(root) {
  const limit = (at.zoom - 1) / 2;
  at.x = Math.min(limit, Math.max(-limit, at.x));
  at.y = Math.min(limit, Math.max(-limit, at.y));
  for (const layers of root.querySelectorAll(".layers")) {
    layers.style.transform = `translate(${at.x * 100}%, ${at.y * 100}%) scale(${at.zoom})`;
  }
  root.querySelector("[data-level]").textContent = `${Math.round(at.zoom * 100)} %`;
}

// (x, y): the point that stays where it is, from the middle, in widths and heights of a pane.
function zoomBy(root, factor, x = 0, y = 0) {
  const zoom = Math.min(LARGEST, Math.max(1, at.zoom * factor));
  at.x = x - ((x - at.x) * zoom) / at.zoom;
  at.y = y - ((y - at.y) * zoom) / at.zoom;
  at.zoom = zoom;
  draw(root);
}

function moveBy(root, x, y) {
  at.x += x;
  at.y += y;
  draw(root);
}

function placeIn(view, event) {
  const box = view.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
}

export function wireZoom(root) {
  const viewOf = (event) => event.target.closest("[data-view]");
  root.addEventListener("click", (event) => {
    const how = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (how === "in") zoomBy(root, 1.5);
    if (how === "out") zoomBy(root, 1 / 1.5);
    if (how === "reset") reset(root);
  });
  const keys = {
    "+": () => zoomBy(root, 1.5),
    "=": () => zoomBy(root, 1.5),
    "-": () => zoomBy(root, 1 / 1.5),
    0: () => reset(root),
    ArrowLeft: () => moveBy(root, STEP, 0),
    ArrowRight: () => moveBy(root, -STEP, 0),
    ArrowUp: () => moveBy(root, 0, STEP),
    ArrowDown: () => moveBy(root, 0, -STEP),
  };
  root.addEventListener("keydown", (event) => {
    if (!viewOf(event) || !(event.key in keys) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  root.addEventListener(
    "wheel",
    (event) => {
      const view = viewOf(event);
      if (!view) return;
      event.preventDefault();
      zoomBy(root, Math.exp(-event.deltaY / 400), ...placeIn(view, event));
    },
    { passive: false },
  );
  wireFingers(root, viewOf);
}

// One finger or the mouse moves, two fingers zoom.
function wireFingers(root, viewOf) {
  const fingers = new Map();
  root.addEventListener("pointerdown", (event) => {
    const view = viewOf(event);
    if (!view) return;
    view.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  root.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const view = viewOf(event);
    const box = view.getBoundingClientRect();
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    if (other) {
      const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoomBy(root, apart(event) / Math.max(1, apart(before)), ...placeIn(view, event));
    } else {
      moveBy(root, (event.clientX - before.clientX) / box.width, (event.clientY - before.clientY) / box.height);
    }
    fingers.set(event.pointerId, event);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    root.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  }
}
