// Pages work without this, but for the rule tester. htmx renews parts of them; this listens for changes, copies UIDs,
// fades heat maps and gives a reader keys.
"use strict";

// htmx makes code out of the text of some attributes. No page here has any, and with this it cannot.
function refuse() { throw new Error("no text is run as code on these pages"); }
htmx.registerExtension("no-eval", { init: (api) => api.initSecurity(null, refuse, refuse) });

const $ = (id) => document.getElementById(id);

// A stream ends now and then and is opened again within seconds.
const STALE_AFTER_MS = 10_000, AGAIN_AFTER_MS = 30_000;

function startListening() {
  const address = document.body.dataset.live;
  if (!address) return;
  const events = new EventSource(address);
  // What was missed while nobody was listening is shown, and not announced.
  events.addEventListener("changed", (event) => htmx.trigger("#live", "changed", { quietly: event.data === "quietly" }));
  let lost = 0;
  events.addEventListener("open", () => { clearTimeout(lost); lost = 0; $("stale").hidden = true; });
  events.addEventListener("error", () => {
    lost ||= setTimeout(() => { $("stale").hidden = false; }, STALE_AFTER_MS);
    if (events.readyState !== EventSource.CLOSED) return;
    // Refused: an ended session shows at the next look, a node that is full takes us later.
    htmx.trigger("#live", "changed", { quietly: true });
    setTimeout(() => { clearTimeout(lost); startListening(); }, AGAIN_AFTER_MS);
  });
  addEventListener("pagehide", () => { events.close(); htmx.trigger("#live", "htmx:abort"); });
}
// One that comes out of the browser's memory listens to nothing.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

document.addEventListener("htmx:before:swap", (event) => {
  const { ctx, tasks } = event.detail;
  // Asked for before a reader went on to another list, it would take that one's place: it is asked for anew.
  if (ctx.sourceElement.getAttribute("hx-get") === "" && ctx.request.action !== location.pathname + location.search) {
    event.preventDefault();
    htmx.trigger("#live", "changed", ctx.sourceEvent.detail);
    return;
  }
  // A list that comes out the same is not announced, nor are figures that change all the time.
  ctx.announce = !ctx.sourceEvent.detail?.quietly && tasks[0].fragment.textContent !== tasks[0].target.textContent;
});
document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
  const told = $("status")?.dataset.updated;
  if (ctx.announce && told) $("status").textContent = told + " " + new Date().toLocaleTimeString();
  // What was sent is not sent once more with the next.
  const sent = ctx.request.form?.dataset.sent;
  for (const field of sent ? document.querySelectorAll(sent) : []) {
    if (field.type === "checkbox") field.checked = false; else field.value = "";
  }
  refresh();
});

// What cannot be done is said where the reader is, in the words of the page that was answered.
function fail(ctx, text) {
  if (ctx.sourceElement.id === "live") return;
  const place = $("failed");
  place.textContent = text;
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
}
document.addEventListener("htmx:response:error", ({ detail: { ctx } }) => {
  const answer = new DOMParser().parseFromString(ctx.text, "text/html").querySelector("#detail");
  fail(ctx, answer ? answer.textContent : "The node answered with status " + ctx.response.status + ".");
});
document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
  if (ctx) fail(ctx, "The node did not answer. Load the page again to see whether it was done.");
});
document.addEventListener("htmx:before:request", ({ detail: { ctx } }) => {
  if (ctx.sourceElement.id !== "live") $("failed").hidden = true;
});

function startCopying() {
  if (!navigator.clipboard) return;
  document.documentElement.classList.add("has-copy");
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

function startFading() {
  for (const slider of document.querySelectorAll("input[data-map]")) {
    const map = $(slider.dataset.map);
    const fade = () => {
      map.style.opacity = slider.value / 100;
      slider.setAttribute("aria-valuetext", slider.value + " percent");
    };
    slider.oninput = fade;
    fade();
  }
}

// Single keys, which a person can switch off (WCAG 2.1.4); never while something is typed.
const keysOn = () => localStorage.getItem("keys") !== "off";

function startKeys() {
  document.documentElement.classList.add("has-keys");
  document.addEventListener("change", ({ target }) => {
    if (target.id === "keys-on") localStorage.setItem("keys", target.checked ? "on" : "off");
  });
  document.addEventListener("keydown", (event) => {
    const form = document.querySelector("form.reading");
    if (!form || !keysOn() || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select")) return;
    const key = event.key.toLowerCase();
    const finding = $("finding");
    if (key === "j" || key === "k") {
      const to = finding.selectedIndex + (key === "j" ? 1 : -1);
      if (to >= 0 && to < finding.options.length) finding.selectedIndex = to;
      finding.focus();
      return;
    }
    const target = key === "c" ? $("comment") : form.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!target) return;
    event.preventDefault();
    if (key === "c") target.focus(); else form.requestSubmit(target);
  });
}

// The rule tester: the beginning of a file goes to the node, which looks at its header and keeps nothing.
const HEAD_BYTES = 768 * 1024;

function startDropping() {
  const zone = $("drop");
  if (!zone) return;
  zone.hidden = false;
  const said = $("drop-said");
  const look = async (file) => {
    if (!file) return;
    said.textContent = "Looking at " + file.name + " …";
    const answer = await fetch(zone.dataset.to + "?calling_ae=" + encodeURIComponent($("drop-ae").value), {
      method: "POST", body: file.slice(0, HEAD_BYTES),
      headers: { "Accept": "text/html", "Content-Type": "application/octet-stream", "X-CSRF-Token": zone.dataset.csrf },
    });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    said.replaceChildren(...(page.getElementById("told") || page.querySelector("main")).childNodes);
  };
  $("drop-file").addEventListener("change", (event) => look(event.target.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    look(event.dataTransfer.files[0]);
  });
}

function refresh() {
  startFading();
  const box = $("keys-on");
  if (box) box.checked = keysOn();
}

startCopying();
startKeys();
startDropping();
startListening();
refresh();
