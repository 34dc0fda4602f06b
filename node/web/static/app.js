// Pages work without this, but for the rule tester: it renews the list as things change, copies UIDs, fades heat maps,
// and gives a reader keys.
"use strict";

function startCopying(root) {
  for (const button of root.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  }
}

function startFading() {
  for (const slider of document.querySelectorAll("input[data-map]")) {
    const map = document.getElementById(slider.dataset.map);
    const fade = () => {
      map.style.opacity = slider.value / 100;
      slider.setAttribute("aria-valuetext", slider.value + " percent");
    };
    slider.addEventListener("input", fade);
    fade();
  }
}

async function renew(quietly) {
  const answer = await fetch(location.href, { headers: { "Accept": "text/html", "X-Radnode-Live": "1" } });
  // An ended session shows the log-in page.
  if (answer.redirected || answer.status === 401) { location.reload(); return; }
  if (!answer.ok) return;
  // A parsed document runs no script and loads nothing.
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("live");
  const live = document.getElementById("live");
  if (!fresh || !live || fresh.isEqualNode(live)) return;
  const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
  const ticked = [...live.querySelectorAll("input:checked")].map((box) => box.id);
  live.replaceChildren(...fresh.childNodes);
  for (const id of ticked) { const box = document.getElementById(id); if (box) box.checked = true; }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (quietly) return;
  const status = document.getElementById("status");
  status.textContent = status.dataset.updated + " " + new Date().toLocaleTimeString();
}

function startListening() {
  const address = document.body.dataset.live;
  if (!address) return;
  const events = new EventSource(address);
  // Pages that cost the record more wait between two looks.
  const every = Number(document.body.dataset.liveEvery || 0);
  let running = false, again = false;
  events.addEventListener("changed", async (event) => {
    if (running) { again = true; return; }
    running = true;
    try {
      do {
        again = false;
        await renew(every > 0 || event.data === "quietly");
        if (every) await new Promise((done) => setTimeout(done, every));
      } while (again);
    } finally { running = false; }
  });
  addEventListener("pagehide", () => events.close());
}

// Single keys, which a person can switch off (WCAG 2.1.4); never while something is typed.
function startKeys() {
  const form = document.querySelector("form.reading");
  const box = document.getElementById("keys-on");
  if (!form || !box) return;
  document.getElementById("keys").hidden = false;
  box.checked = localStorage.getItem("keys") !== "off";
  box.addEventListener("change", () => localStorage.setItem("keys", box.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (!box.checked || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select")) return;
    const key = event.key.toLowerCase();
    const finding = document.getElementById("finding");
    if (key === "j" || key === "k") {
      const to = finding.selectedIndex + (key === "j" ? 1 : -1);
      if (to >= 0 && to < finding.options.length) finding.selectedIndex = to;
      finding.focus();
      return;
    }
    const target = key === "c" ? document.getElementById("comment") : form.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!target) return;
    event.preventDefault();
    if (key === "c") target.focus(); else form.requestSubmit(target);
  });
}

// The rule tester: the beginning of a file goes to the node, which looks at its header and keeps nothing.
const HEAD_BYTES = 768 * 1024;

function startDropping() {
  const zone = document.getElementById("drop");
  if (!zone) return;
  zone.hidden = false;
  const chosen = document.getElementById("drop-file");
  const said = document.getElementById("drop-said");
  const look = async (file) => {
    if (!file) return;
    said.textContent = "Looking at " + file.name + " …";
    const calling = encodeURIComponent(document.getElementById("drop-ae").value);
    const answer = await fetch(zone.dataset.to + "?calling_ae=" + calling, {
      method: "POST", body: file.slice(0, HEAD_BYTES),
      headers: { "Accept": "text/html", "Content-Type": "application/octet-stream", "X-CSRF-Token": zone.dataset.csrf },
    });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const told = page.getElementById("told") || page.querySelector("main");
    said.replaceChildren(...(told ? told.childNodes : []));
  };
  chosen.addEventListener("change", () => look(chosen.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    look(event.dataTransfer.files[0]);
  });
}

startKeys();
startDropping();
startCopying(document);
startFading();
startListening();
