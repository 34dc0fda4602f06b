// Pages work without this: it renews the list as things change, copies UIDs and fades heat maps.
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
  live.replaceChildren(...fresh.childNodes);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (quietly) return;
  const status = document.getElementById("status");
  status.textContent = status.dataset.updated + " " + new Date().toLocaleTimeString();
}

function startListening() {
  const address = document.body.dataset.live;
  if (!address) return;
  const events = new EventSource(address);
  let running = false, again = false;
  events.addEventListener("changed", async (event) => {
    if (running) { again = true; return; }
    running = true;
    try {
      await renew(event.data === "quietly");
      while (again) { again = false; await renew(false); }
    } finally { running = false; }
  });
  addEventListener("pagehide", () => events.close());
}

startCopying(document);
startFading();
startListening();
