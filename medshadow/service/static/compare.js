// A known case beside the query, filled from what the page shows; only overlays are asked for.
import { draw, reset, wireZoom } from "./zoom.js";

const dialog = document.querySelector("#compare");
const find = (selector) => dialog.querySelector(selector);
let card = null;
let opener = null;

const cards = () => [...document.querySelectorAll(".grid .case")];
const markOf = (value) =>
  [...document.querySelectorAll('input[type="radio"][name^="mark:"]')].find(
    (input) => input.name === `mark:${card.dataset.case}` && input.value === value,
  );

function open(ofCard, from) {
  // The nearest malignant case may stand in the grid as well: from there the next one is known.
  card = cards().find((one) => one.dataset.case === ofCard.dataset.case) ?? ofCard;
  if (!dialog.open) {
    opener = from;
    dialog.showModal();
    reset(dialog);
  }
  const word = card.dataset.malignant;
  find("h2").textContent = `Your image and ${word ? `${word} ` : ""}case of rank ${card.dataset.rank}`;
  find('[data-side="case"].pane').classList.toggle("pane-malignant", Boolean(word));
  show("query", document.querySelector(".query img"));
  show("case", card.querySelector(".case-picture img"));
  const words = card.querySelector(".case-words").cloneNode(true);
  for (const named of words.querySelectorAll("[id]")) named.removeAttribute("id");
  find("[data-words]").replaceChildren(words);
  const query = document.querySelector(".query").dataset.eye;
  find("[data-mirror]").hidden = !query || !card.dataset.eye || query === card.dataset.eye;
  withoutOverlays();
  find("[data-explain]").value = card.dataset.case;
  find("[data-explain]").hidden = !card.querySelector(".case-picture img");
  showMarks();
  const place = cards().indexOf(card);
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.disabled = place < 0 || !cards()[place + Number(button.dataset.step)];
  }
  draw(dialog);
  find("h2").focus({ preventScroll: true });
}

function show(side, picture) {
  const pane = find(`.pane[data-side="${side}"]`);
  const layers = pane.querySelector(".layers");
  if (!picture) {
    const none = document.createElement("span");
    none.className = "no-picture";
    none.textContent = "no picture kept";
    layers.replaceChildren(none);
    pane.querySelector("[data-size]").textContent = "";
    return;
  }
  const copy = new Image();
  copy.src = picture.src;
  copy.alt = side === "query" ? "The image that was looked up" : "The known case";
  copy.draggable = false;
  layers.replaceChildren(copy);
  pane.querySelector("[data-size]").textContent = `shown at ${picture.naturalWidth} × ${picture.naturalHeight} px`;
}

function withoutOverlays() {
  dialog.classList.remove("overlay-off");
  for (const overlay of dialog.querySelectorAll(".overlay")) overlay.remove();
  find("#overlays").replaceChildren();
  find("[data-overlay]").hidden = true;
  find(".strength").hidden = true;
  find("[data-explained]").hidden = true;
  find(".compare-error").hidden = true;
}

function withOverlays() {
  // An answer for the case before, which came too late.
  if (find("#overlays > [data-case]")?.dataset.case !== card.dataset.case) return;
  for (const overlay of dialog.querySelectorAll("#overlays > img")) {
    const { side } = overlay.dataset;
    overlay.className = "overlay";
    overlay.draggable = false;
    overlay.style.opacity = find("[data-strength]").value / 100;
    find(`.pane[data-side="${side}"] .layers`).append(overlay);
  }
  find("[data-explain]").hidden = true;
  find("[data-overlay]").hidden = false;
  find("[data-overlay]").setAttribute("aria-pressed", "true");
  find(".strength").hidden = false;
  find("[data-explained]").hidden = false;
  find("[data-overlay]").focus();
}

function showMarks() {
  find("[data-judges]").hidden = !markOf("");
  for (const button of dialog.querySelectorAll("[data-judge]")) {
    button.setAttribute("aria-pressed", String(Boolean(markOf(button.dataset.judge)?.checked)));
  }
}

function judge(value) {
  const input = markOf(markOf(value).checked ? "" : value);
  input.checked = true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  showMarks();
}

export function complainInside(text) {
  if (!dialog.open) return false;
  find(".compare-error").textContent = text;
  find(".compare-error").hidden = false;
  return true;
}

export function wireCompare() {
  wireZoom(dialog);
  document.addEventListener("click", (event) => {
    const from = event.target.closest("[data-compare], [data-open]");
    if (from) open(from.closest(".case"), from.closest(".case").querySelector("[data-compare]"));
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.hasAttribute("data-close") || event.target === dialog) dialog.close();
    if (button?.dataset.judge) judge(button.dataset.judge);
    if (button?.dataset.step) {
      const place = cards().indexOf(card) + Number(button.dataset.step);
      open(cards()[place], opener);
    }
    if (button?.hasAttribute("data-overlay")) {
      const off = dialog.classList.toggle("overlay-off");
      button.setAttribute("aria-pressed", String(!off));
    }
  });
  find("[data-strength]").addEventListener("input", (event) => {
    for (const overlay of dialog.querySelectorAll(".overlay")) overlay.style.opacity = event.target.value / 100;
  });
  dialog.addEventListener("close", () => {
    if (opener?.isConnected) opener.focus();
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id === "overlays") withOverlays();
  });
}
