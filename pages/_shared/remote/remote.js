// The presenter's keys: they turn beats whatever has the focus, each press counted; B blanks the screen, O shows all
// beats, P lets figures wait for a guess. It is given the titles, writes them with textContent only, and reports where
// to go.

const FORWARD = ["ArrowRight", "PageDown"];
const BACK = ["ArrowLeft", "PageUp"];
const RETRY = 450; // milliseconds
const WAIT = 90; // milliseconds in which several presses become one step

export default function ({ data, setTriggerValue }) {
  const remote = (window.anatomyRemote ??= start());
  remote.data = data;
  remote.tell = (value) => setTriggerValue("turn", value);
  if (data.on && remote.sent && remote.page === data.page && !(data.heard >= remote.number)) {
    return; // presses that the server has not heard of yet
  }
  clearTimeout(remote.retry);
  remote.page = data.page;
  remote.target = data.at;
  remote.sent = false;
  remote.close();
}

function start() {
  const remote = { data: { on: false }, target: null, sent: false, timer: null, layer: null, number: 0 };
  remote.close = () => {
    remote.layer?.remove();
    remote.layer = null;
  };
  document.addEventListener("keydown", (event) => onKey(remote, event), { capture: true });
  return remote;
}

function onKey(remote, event) {
  if (!remote.data.on || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const step = FORWARD.includes(event.key) ? 1 : BACK.includes(event.key) ? -1 : 0;
  const writing = event.target.matches?.("textarea, input[type=text], input[type=number], input:not([type])");
  if (step && !(writing && event.key.startsWith("Arrow"))) {
    take(event);
    if (!remote.layer) {
      turn(remote, step);
    } else if (remote.layer.dataset.kind === "beats") {
      move(remote, step);
    } else {
      remote.close();
    }
    return;
  }
  if (writing && event.key !== "Escape") {
    return;
  }
  if (event.key === "Escape") {
    escape(remote, event);
  } else if (event.key.toLowerCase() === "b" || event.key === ".") {
    take(event);
    remote.layer ? remote.close() : blank(remote);
  } else if (event.key.toLowerCase() === "o") {
    take(event);
    remote.layer ? remote.close() : overview(remote);
  } else if (event.key.toLowerCase() === "p" && !remote.layer) {
    take(event);
    remote.tell({ ask: true, number: ++remote.number });
  } else if (remote.layer && remote.layer.dataset.kind === "blank") {
    take(event);
    remote.close();
  }
}

// The first Escape closes what is open, the next one leaves.
function escape(remote, event) {
  if (document.querySelector(".anatomy-meaning")) {
    return; // which closes by itself
  }
  if (remote.layer) {
    take(event);
    remote.close();
    return;
  }
  const open = document.querySelector('[data-testid="stSelectboxVirtualDropdown"], [data-testid="stPopoverBody"], [role="listbox"], [role="dialog"]');
  const field = document.activeElement?.matches?.("textarea, input") ? document.activeElement : null;
  if (open || (field && field.type !== "range")) {
    field?.blur();
    return; // Streamlit closes it
  }
  take(event);
  remote.tell({ leave: true, number: ++remote.number });
}

function turn(remote, step) {
  const last = remote.data.titles.length - 1;
  const lowest = remote.data.before ? -1 : 0;
  const highest = remote.data.after ? last + 1 : last;
  remote.target = Math.max(lowest, Math.min(highest, (remote.target ?? remote.data.at) + step));
  remote.sent = true;
  remote.number += 1; // no answer to an earlier message is one to this
  const { target: to, page } = remote;
  clearTimeout(remote.timer);
  remote.timer = setTimeout(() => send(remote, to, page), WAIT);
}

// A message that comes while a page is being replaced may be lost: it is sent again until the server has heard it.
function send(remote, to, page, left = 6) {
  const number = ++remote.number;
  remote.sent = true;
  if (to < 0 || to >= remote.data.titles.length) {
    document.dispatchEvent(new Event("anatomy-leaving"));
  }
  remote.tell({ to, page, number });
  clearTimeout(remote.retry);
  remote.retry = setTimeout(() => {
    if (left && remote.data.on && remote.sent && remote.number === number) {
      send(remote, to, page, left - 1);
    }
  }, RETRY);
}

function blank(remote) {
  remote.layer = layer("blank");
  remote.layer.addEventListener("click", remote.close);
}

function overview(remote) {
  remote.layer = layer("beats");
  const list = document.createElement("ol");
  remote.data.titles.forEach((title, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.addEventListener("click", () => {
      remote.target = number;
      remote.close();
      send(remote, number, remote.page);
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  });
  remote.layer.append(list);
  list.querySelectorAll("button")[remote.data.at]?.focus();
}

function move(remote, step) {
  const buttons = [...remote.layer.querySelectorAll("button")];
  const now = buttons.indexOf(document.activeElement);
  buttons[Math.max(0, Math.min(buttons.length - 1, now + step))]?.focus();
}

function layer(kind) {
  const element = document.createElement("div");
  element.className = "anatomy-layer";
  element.dataset.kind = kind;
  document.querySelector('[data-testid="stApp"]').append(element);
  return element;
}

function take(event) {
  event.preventDefault();
  event.stopImmediatePropagation();
}
