// The whole model as one drawing that stays while its steps scroll past; the step in sight lights its parts up.
// It is given everything it shows as JSON, writes text with textContent only, and reports which door was opened.

const SVG = "http://www.w3.org/2000/svg";
const WIDEST = 720;
const NARROWEST = 500;
const LEFT = 76; // room for the names of the blocks
const RIGHT = 230; // room for the bars and the guesses
const FOOT = 34;
const TURNED = 66; // more room where the tokens stand aslant
const HEAD = 34;

export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector(".scene");
  if (!root || !data) {
    return;
  }
  const state = (root.anatomy ??= { open: null, watching: false });
  state.open = (name) => setTriggerValue("open", name);
  const said = JSON.stringify(data);
  if (state.said !== said) {
    state.said = said;
    root.querySelector(".machine").replaceChildren(...drawing(data, root.querySelector(".machine").clientWidth || WIDEST));
    root.querySelector(".steps").replaceChildren(...data.steps.map((step) => card(step, state)));
    light(root);
  }
  if (!state.watching) {
    state.watching = true;
    watch(root);
  }
}

// What is drawn

function drawing(data, room) {
  const svg = make("svg", { role: "img", "aria-label": data.alt });
  const wide = Math.max(NARROWEST, Math.min(WIDEST, room));
  const columns = data.tokens.length;
  const step = (wide - LEFT - RIGHT) / columns;
  const tall = Math.max(10, Math.min(30, Math.floor(330 / data.blocks.length)));
  const turned = data.tokens.some((token) => token.length > step / 7);
  const high = HEAD + data.blocks.length * tall + FOOT + (turned ? TURNED : 20);
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  const x = (column) => LEFT + column * step;
  const y = (block) => HEAD + (data.blocks.length - 1 - block) * tall;
  svg.append(
    answers(data, x(0), wide),
    ...data.blocks.map((block, number) => row(data, block, number, { x, y, step, tall, wide })),
    tokens(data, { x, step, top: HEAD + data.blocks.length * tall, turned }),
  );
  return [svg];
}

function tokens(data, { x, step, top, turned }) {
  const group = part("tokens");
  data.tokens.forEach((token, column) => {
    const last = column === data.tokens.length - 1;
    group.append(
      box(x(column) + 1, top + 7, step - 2, 9, data.colors.embedding, "vector"),
      box(x(column) + 1, top + 20, step - 2, 8, last ? data.colors.residual : "currentColor", last ? "chip last" : "chip"),
    );
    const middle = x(column) + step / 2;
    const name = words(middle, top + 44, fit(token, turned ? 13 : step / 7), turned ? "end" : "middle", last ? "token last" : "token");
    if (turned) {
      name.setAttribute("transform", `rotate(-50 ${middle + 4} ${top + 36})`);
    }
    group.append(name);
  });
  group.append(words(LEFT - 8, top + 16, "vectors", "end", "label"), words(LEFT - 8, top + 29, "tokens", "end", "label"));
  return group;
}

function row(data, block, number, { x, y, step, tall, wide }) {
  const group = part("block");
  const top = y(number);
  const thick = tall - Math.min(4, tall * 0.25);
  group.append(box(LEFT - 2, top, wide - LEFT - RIGHT + 4, tall - 1, "currentColor", "frame"));
  const reads = part("reads");
  block.reads.forEach((weight, column) => {
    const cell = box(x(column) + 1, top + (tall - thick) / 2, step - 2, thick, data.colors.attention, "cell");
    cell.setAttribute("fill-opacity", String(Math.min(1, 0.06 + weight)));
    cell.append(title(`${data.tokens[column]}: ${percent(weight)}`));
    reads.append(cell);
  });
  group.append(reads);
  const from = wide - RIGHT + 62;
  const scale = 52 / data.most;
  group.append(
    bar(from, top + 1, thick / 2 - 0.5, block.attention * scale, data.colors.attention, "adds attention", block.said[0]),
    bar(from, top + thick / 2 + 1, thick / 2 - 0.5, block.mlp * scale, data.colors.mlp, "adds mlp", block.said[1]),
  );
  if (block.name) {
    group.append(words(LEFT - 8, top + tall / 2 + 4, block.name, "end", "label"));
  }
  if (block.guess) {
    const guess = words(from + 62, top + tall / 2 + 4, block.guess, "start", "guess");
    guess.setAttribute("fill-opacity", String(0.45 + 0.55 * block.chance));
    group.append(guess);
  }
  return group;
}

function answers(data, left, edge) {
  const group = part("answer");
  const wide = edge - left;
  let at = left;
  data.next.forEach((one, number) => {
    const width = Math.max(26, wide * 0.98 * one.chance * 0.7 + 30);
    if (at + width > edge) {
      return;
    }
    group.append(
      box(at, 2, width - 3, 22, data.colors.logits, number ? "candidate" : "candidate first"),
      words(at + 5, 17, fit(`${one.token} ${one.said}`, width / 7), "start", "token"),
    );
    at += width;
  });
  group.append(words(LEFT - 8, 17, "next", "end", "label"));
  return group;
}

function bar(from, top, tall, wide, color, kind, said) {
  const one = box(wide < 0 ? from + wide : from, top, Math.max(0.8, Math.abs(wide)), Math.max(1.5, tall), color, kind);
  one.append(title(said));
  return one;
}

// The steps beside it

function card(step, state) {
  const item = document.createElement("li");
  item.dataset.parts = step.parts;
  item.append(line("h3", step.title), line("p", step.text));
  for (const door of step.doors) {
    const button = line("button", `${door.title} →`);
    button.type = "button";
    button.addEventListener("click", () => {
      document.dispatchEvent(new Event("anatomy-leaving"));
      state.open(door.name);
    });
    item.append(button);
  }
  return item;
}

function watch(root) {
  const onScroll = () => {
    if (!root.isConnected) {
      document.removeEventListener("scroll", onScroll, { capture: true });
      window.removeEventListener("resize", onScroll);
      return;
    }
    requestAnimationFrame(() => light(root));
  };
  document.addEventListener("scroll", onScroll, { capture: true, passive: true });
  window.addEventListener("resize", onScroll);
}

function light(root) {
  const middle = window.innerHeight * 0.45;
  const items = [...root.querySelectorAll(".steps li")];
  const away = (item) => {
    const seen = item.getBoundingClientRect();
    return Math.abs((seen.top + seen.bottom) / 2 - middle);
  };
  const nearest = items.reduce((best, item) => (best && away(best) <= away(item) ? best : item), null);
  for (const item of items) {
    item.classList.toggle("lit", item === nearest);
  }
  root.querySelector(".machine").dataset.lit = nearest ? nearest.dataset.parts : "";
}

// Small things

function make(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  return element;
}

function part(names) {
  return make("g", { class: names });
}

function box(x, y, width, height, fill, kind) {
  return make("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), rx: 2, fill, class: kind });
}

function words(x, y, text, anchor, kind) {
  const element = make("text", { x, y, "text-anchor": anchor, class: kind });
  element.textContent = text;
  return element;
}

function title(text) {
  const element = make("title");
  element.textContent = text;
  return element;
}

function line(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function fit(text, room) {
  const most = Math.max(1, Math.floor(room));
  return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}
