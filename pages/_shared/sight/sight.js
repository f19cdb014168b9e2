// Tells which beats are in the window and which are near it, and asks again while something is still to come.
// It only measures: what it knows of the page are the class names that Streamlit gives to keyed containers.

const PREFIX = "st-key-beat-";
const STAGE = "st-key-stage-";
const KEPT = "anatomy-seen";
const NEAR = 0.8; // windows above and below
const LOOK = 250; // milliseconds between two looks when nothing scrolls
const ASK = 150; // milliseconds until the first question while something is to come
const LATER = 1.35; // each further question waits so many times as long, until the work gets further
const LATEST = 1200; // milliseconds
const SETTLED = 400; // milliseconds after which scrolling has come to rest
const GOING = 10_000; // milliseconds after which a page that was to be left has stayed
const LINK = 'h2 [data-testid="stHeaderActionElements"] a';
const TERM = 'a[href^="#term-"]';

export default function ({ parentElement, data, setTriggerValue }) {
  let watch = parentElement.anatomySight;
  if (!watch || watch.stopped) {
    watch = parentElement.anatomySight = start(parentElement);
  }
  if (data.news !== watch.data.news) {
    watch.wait = ASK; // the work goes on
  }
  watch.data = data;
  watch.tell = setTriggerValue;
  watch.asked = performance.now();
  bring(watch);
  close(watch);
  watch.look();
}

// On a phone the sidebar lies over the page: it closes when another page was chosen in it.
function close(watch) {
  const before = watch.page ?? window.anatomyPage;
  watch.page = window.anatomyPage = watch.data.page;
  if (before !== undefined && before !== watch.page && window.innerWidth < 641) {
    document.querySelector('[data-testid="stSidebar"][data-collapsed="false"] [data-testid="stSidebarCollapseButton"] button')?.click();
  }
}

// Scrolls to a beat once, when the server says so.
function bring(watch) {
  const { goto: name, gotoNumber: number } = watch.data;
  if (!name || number === watch.brought) {
    return;
  }
  const beat = [...document.querySelectorAll(`[class*="${PREFIX}"]`)].find((one) => one.classList.contains(PREFIX + name));
  if (beat) {
    watch.brought = number;
    beat.scrollIntoView({ block: "start" });
  }
}

function start(element) {
  const watch = { data: {}, tell: null, said: "", asked: 0, wait: ASK, number: 0, left: -Infinity, stopped: false };
  const onScroll = throttled(() => watch.look(), 80);
  watch.look = () => look(watch);
  document.addEventListener("scroll", onScroll, { capture: true, passive: true });
  window.addEventListener("resize", onScroll);
  document.addEventListener("click", meaning, { capture: true });
  document.addEventListener("click", follow, { capture: true });
  const going = () => {
    watch.left = performance.now();
  };
  const goes = (event) => leads(event) && going();
  document.addEventListener("click", goes, { capture: true });
  document.addEventListener("anatomy-leaving", going);
  window.addEventListener("popstate", going);
  const timer = setInterval(() => {
    if (!element.isConnected) {
      watch.stopped = true;
      clearInterval(timer);
      document.removeEventListener("scroll", onScroll, { capture: true });
      window.removeEventListener("resize", onScroll);
      document.removeEventListener("click", meaning, { capture: true });
      document.removeEventListener("click", follow, { capture: true });
      document.removeEventListener("click", goes, { capture: true });
      document.removeEventListener("anatomy-leaving", going);
      window.removeEventListener("popstate", going);
      return;
    }
    watch.look();
  }, Math.min(LOOK, ASK));
  return watch;
}

function look(watch) {
  const { inside, near } = measured();
  announce(watch, inside[0]);
  linkBeats();
  const size = [window.innerWidth, window.innerHeight];
  const said = JSON.stringify([watch.data.page, inside, near, size]);
  const now = performance.now();
  const changed = said !== watch.said;
  if (now - watch.left < GOING) {
    return; // what is told of a page while the next one is made would be taken for a wish to go back to it
  }
  const busy = watch.data.busy || document.querySelector(".anatomy-waiting") !== null;
  if (!watch.tell || (!changed && !(busy && now - watch.asked > watch.wait))) {
    return;
  }
  watch.wait = changed ? ASK : Math.min(LATEST, watch.wait * LATER);
  watch.said = said;
  watch.asked = now;
  watch.number += 1;
  watch.tell("sight", { page: watch.data.page, number: watch.number, inside, near, size, heights: heights(), seen: remembered(watch) });
}

// The link at a beat's heading: the address as it is, and this beat.
function linkBeats() {
  for (const link of document.querySelectorAll(`[class*="${PREFIX}"] ${LINK}`)) {
    link.dataset.beat ??= link.getAttribute("href").slice(1);
    const query = new URLSearchParams(window.location.search);
    query.set("beat", link.dataset.beat);
    if (link.getAttribute("href") !== `?${query}`) {
      link.setAttribute("href", `?${query}`);
    }
  }
}

// Pressed, it puts the beat into the address and to the top of the window; the page is not loaded again.
function follow(event) {
  const link = event.target instanceof Element ? event.target.closest(LINK) : null;
  if (link?.dataset.beat && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    event.stopPropagation();
    window.history.replaceState(window.history.state, "", link.getAttribute("href"));
    link.closest(`[class*="${PREFIX}"]`).scrollIntoView({ block: "start" });
  }
}

// Whether a click is on a link to another page of the book.
function leads(event) {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  return link && !event.ctrlKey && !event.metaKey && !event.shiftKey
    && link.origin === window.location.origin && link.pathname !== window.location.pathname;
}

// A marked term was pressed: what it means is shown below it until something else is pressed, scrolled or Escape.
function meaning(event) {
  const shown = document.querySelector(".anatomy-meaning");
  const term = event.target instanceof Element ? event.target.closest(TERM) : null;
  shown?.remove();
  if (!term) {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  if (shown?.dataset.term === term.hash) {
    return;
  }
  const note = document.createElement("div");
  note.className = "anatomy-meaning";
  note.dataset.term = term.hash;
  note.setAttribute("role", "status");
  const app = document.querySelector('[data-testid="stApp"]');
  app.append(note);
  note.textContent = term.title; // after it is there, so that it is read out
  const at = term.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, window.innerWidth - note.offsetWidth - 8));
  const below = at.bottom + note.offsetHeight + 12 < window.innerHeight;
  note.style.left = `${left}px`;
  note.style.top = `${below ? at.bottom + 6 : at.top - note.offsetHeight - 6}px`;
  const away = new AbortController();
  const leave = (reason) => {
    if (reason.type !== "keydown" || reason.key === "Escape") {
      note.remove();
      away.abort();
    }
  };
  document.addEventListener("keydown", leave, { capture: true, signal: away.signal });
  setTimeout(() => { // the scrolling that brought the term here may still report
    document.addEventListener("scroll", leave, { capture: true, passive: true, signal: away.signal });
  }, SETTLED);
}

// Reads a figure's new title to those who cannot see it change.
function announce(watch, beat) {
  const title = beat && document.querySelector(`.${CSS.escape(PREFIX + beat)} [class*="st-key-card-"] h3`)?.textContent;
  if (!title) {
    return;
  }
  const before = watch.title;
  watch.title = { page: watch.data.page, beat, title };
  if (before?.page === watch.data.page && before.beat === beat && before.title !== title) {
    watch.live ??= document.querySelector(".anatomy-live") ?? liveRegion();
    watch.live.textContent = title;
  }
}

function liveRegion() {
  const region = document.createElement("div");
  region.className = "anatomy-live";
  region.setAttribute("role", "status");
  document.querySelector('[data-testid="stApp"]').append(region);
  return region;
}

// What was on the screen in earlier visits is kept in this browser alone, and told once to each new session.
function remembered(watch) {
  if (!watch.data.seen) {
    return {};
  }
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
    localStorage.setItem(KEPT, JSON.stringify({ ...kept, ...watch.data.seen }));
  } catch {
    return {}; // no storage here
  }
  if (window.anatomyTold) {
    return {};
  }
  window.anatomyTold = true;
  return kept;
}

function measured() {
  const tall = window.innerHeight;
  const inside = [];
  const near = [];
  for (const [name, box] of keyed(PREFIX)) {
    if (box.bottom > 0 && box.top < tall) {
      inside.push([Math.abs((Math.max(box.top, 0) + Math.min(box.bottom, tall)) / 2 - tall / 2), name]);
    } else if (box.bottom > -NEAR * tall && box.top < (1 + NEAR) * tall) {
      near.push(name);
    }
  }
  inside.sort((a, b) => a[0] - b[0]); // the one in the middle first
  return { inside: inside.map(([, name]) => name), near };
}

function heights() {
  return Object.fromEntries(keyed(STAGE).map(([name, box]) => [name, Math.round(box.height)]));
}

function keyed(prefix) {
  const found = [];
  for (const element of document.querySelectorAll(`[class*="${prefix}"]`)) {
    const name = [...element.classList].find((one) => one.startsWith(prefix));
    if (name) {
      found.push([name.slice(prefix.length), element.getBoundingClientRect()]);
    }
  }
  return found;
}

function throttled(action, wait) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      action();
    }, wait);
  };
}
