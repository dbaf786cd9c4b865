// What the page does beyond its forms: choosing an image, counting marks, focus after an answer.
import { complainInside, wireCompare } from "./compare.js";

const root = document.documentElement;
root.classList.add("scripted");
const bar = document.querySelector(".top");
new ResizeObserver(() => root.style.setProperty("--top", `${bar.offsetHeight}px`)).observe(bar);
const find = (selector, within = document) => within.querySelector(selector);

// A file's name may tell who the patient is: the service gets the ending alone.
function nameless(file) {
  const ending = /\.[a-z0-9]{1,5}$/i.exec(file.name)?.[0] ?? "";
  return new File([file], `image${ending}`, { type: file.type });
}

function choose(file) {
  const input = find("#image");
  const transfer = new DataTransfer();
  transfer.items.add(nameless(file));
  input.files = transfer.files;
  showChosen(input.files[0]);
  if (find("#reference")) {
    find("#reference").value = "";
    complainBeside("");
  }
  forgetEye();
  const change = input.closest("details");
  if (change) change.open = true;
}

// Which eye was shown before says nothing of another image.
function forgetEye() {
  const unsaid = find('input[name="laterality"][value=""]');
  if (unsaid) unsaid.checked = true;
}

function nameInstance() {
  find("#image").value = "";
  find("[data-chosen]").textContent = "";
  find("[data-preview]").hidden = true;
  complainBeside("");
  forgetEye();
}

function showChosen(file) {
  const preview = find("[data-preview]");
  preview.hidden = true;
  const size = file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
  find("[data-chosen]").textContent = `File chosen, ${size}.`;
  if (!/^image\/(png|jpeg|webp|gif|bmp)$/.test(file.type)) return;
  const reader = new FileReader();
  reader.onload = () => {
    preview.src = reader.result;
    preview.hidden = false;
  };
  reader.readAsDataURL(file);
}

document.addEventListener("change", (event) => {
  if (event.target.id === "image" && event.target.files.length) choose(event.target.files[0]);
  if (event.target.name?.startsWith("mark:")) countMarks();
});
document.addEventListener("input", (event) => {
  if (event.target.id === "reference") nameInstance();
});

// A drop anywhere counts: missing the box must not make the browser leave the page for the file.
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    find("[data-drop]")?.classList.toggle("drop-over", kind === "dragover");
    if (kind === "drop" && find("#image") && event.dataTransfer.files.length) {
      choose(event.dataTransfer.files[0]);
      find("#look > button").focus();
    }
  });
}
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (!file || !find("#image")) return;
  event.preventDefault();
  choose(file);
  find("#look > button").focus();
});

function countMarks() {
  const line = find("[data-marked]");
  if (!line) return;
  const count = (value) => document.querySelectorAll(`input[name^="mark:"][value="${value}"]:checked`).length;
  const carried = (value) => document.querySelectorAll(`input[type=hidden][name^="mark:"][value="${value}"]`).length;
  const relevant = count("relevant") + carried("relevant");
  const not = count("not") + carried("not");
  line.parentElement.classList.toggle("again-marked", relevant + not > 0);
  if (relevant + not === 0) return;
  line.textContent = relevant
    ? `${relevant} marked relevant, ${not} not relevant. After searching again no vote is shown: it would count your marks.`
    : `${not} marked not relevant. Mark at least one case as relevant to search again.`;
}

function complain(text) {
  if (complainInside(text)) return;
  const place = find("#alerts");
  const box = document.createElement("div");
  box.className = "warning warning-grave";
  box.dataset.code = "error";
  const words = document.createElement("p");
  words.textContent = text;
  box.append(words);
  // The warnings of the answer that still stands below must not go.
  find('[data-code="error"]', place)?.remove();
  place.prepend(box);
  window.scrollTo({ top: 0 });
}

function complainBeside(text) {
  find("#reference-error").textContent = text;
  if (!text) return find("#reference").removeAttribute("aria-invalid");
  find("#reference").setAttribute("aria-invalid", "true");
  find("#reference").focus();
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (xhr.getResponseHeader("Content-Type")?.startsWith("text/html")) return;
  // A refusal before the page was reached: a limit, an ended session.
  event.detail.shouldSwap = false;
  let problem = {};
  try {
    problem = JSON.parse(xhr.responseText);
  } catch { /* not JSON: the status alone is told */ }
  if (problem.errors?.[0]?.field === "reference" && find("#reference")) {
    complainBeside(problem.detail);
    return;
  }
  const what = problem.detail ?? problem.title ?? `The service answered ${xhr.status}.`;
  complain(xhr.status === 401 ? "Your session has ended. Reload this page and sign in again." : String(what));
});
document.addEventListener("htmx:sendError", () => {
  complain("The service cannot be reached. Nothing was looked up.");
});
document.addEventListener("htmx:afterSwap", (event) => {
  find("[data-stored]")?.focus();
  if (event.detail.target.id !== "main") return;
  const first = find("#alerts .warning") ? "Check first: " : "";
  // While the old page still stood beside the new one, marks of one name undid each other.
  for (const mark of document.querySelectorAll('input[name^="mark:"]')) {
    if (mark.defaultChecked) mark.checked = true;
  }
  document.title = `${first}${find("#answer").textContent} · MedShadow`;
  window.scrollTo({ top: 0 });
  find("#answer").focus({ preventScroll: true });
  countMarks();
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});
wireCompare();
