// The drawing page: pads that record strokes, and the two things done with them. All knowledge is on the server.

const $ = (id) => document.getElementById(id);
const UNREACHABLE = "The server of this page does not answer; start it again and reload the page.";

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

const start = await fetch("start").then((reply) => reply.json()).catch((error) => {
  trouble(UNREACHABLE);
  throw error;
});
const UNITS = start.canvas;
const percent = (p) => (p > 0.995 ? "over 99%" : p < 0.005 ? "under 1%" : `${Math.round(100 * p)}%`);

// ---- talking to the server ------------------------------------------------------------------------

async function ask(question, body, type = "application/json") {
  try {
    const reply = await fetch(question, { method: "POST", headers: { "Content-Type": type }, body });
    const answer = await reply.json();
    trouble("");
    return answer;
  } catch {
    return { error: UNREACHABLE, unreachable: true };
  }
}

// One question at a time: while one is on its way, only the newest of those that follow is kept.
class Line {
  constructor(question, show) {
    Object.assign(this, { question, show, busy: false, next: null, number: 0 });
  }
  async ask(data, since = performance.now()) {
    const number = ++this.number;
    if (this.busy) {
      this.next = [data, since];
      return;
    }
    this.busy = true;
    const answer = await ask(this.question, JSON.stringify(data));
    this.busy = false;
    if (this.next) {
      const next = this.next;
      this.next = null;
      this.ask(...next);
    } else if (number === this.number) {
      if (answer.unreachable) trouble(answer.error);
      else this.show(answer, since);
    }
  }
  forget() {
    this.number += 1;
    this.next = null;
  }
}

// ---- drawings -------------------------------------------------------------------------------------

const pictures = new Map(); // base64 of uploads -> decoded image
async function decoded(picture) {
  if (!pictures.has(picture)) {
    const image = new Image();
    image.src = `data:image/png;base64,${picture}`;
    await image.decode();
    pictures.set(picture, image);
  }
  return pictures.get(picture);
}

const empty = (drawing) => !drawing.strokes.length && !drawing.picture;
const copy = (drawing) => JSON.parse(JSON.stringify({ picture: null, ...drawing }));

function paintStroke(context, stroke) {
  const [first, ...rest] = stroke.points;
  context.lineWidth = stroke.width;
  context.beginPath();
  context.moveTo(...first);
  for (const point of rest) context.lineTo(...point);
  if (!rest.length) context.lineTo(first[0] + 0.01, first[1]);
  context.stroke();
}

async function paint(canvas, drawing, minimum = 0) {
  const image = drawing.picture ? await decoded(drawing.picture) : null;
  const side = Math.max(1, Math.round((canvas.clientWidth || 48) * (window.devicePixelRatio || 1)));
  canvas.width = canvas.height = side; // also wipes it
  const context = canvas.getContext("2d");
  context.scale(side / UNITS, side / UNITS);
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = "#1b1f27";
  if (image) context.drawImage(image, 0, 0, UNITS, UNITS);
  for (const stroke of drawing.strokes) paintStroke(context, { ...stroke, width: Math.max(stroke.width, minimum) });
  return context;
}

class Pad {
  constructor(place, title, changed) {
    this.drawing = { strokes: [], picture: null };
    this.title = title;
    this.changed = changed;
    this.stroke = null;
    place.append($("pad").content.cloneNode(true));
    this.find = (selector) => place.querySelector(selector);
    this.canvas = this.find("canvas");
    this.find(".pad-title").textContent = title;
    for (const kind of ["undo", "clear", "upload"]) {
      this.find(`.${kind}`).setAttribute("aria-label", `${this.find(`.${kind}`).textContent}: ${title}`);
      this.find(`.${kind}`).addEventListener("click", () => this[kind]());
    }
    this.find("input").setAttribute("aria-label", `Image file for: ${title}`);
    this.find("input").addEventListener("change", () => this.read());
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => this.end(event));
    new ResizeObserver(() => this.repaint()).observe(this.canvas);
    this.describe();
  }

  get empty() { return empty(this.drawing); }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const along = (value, size) => Math.round(10 * Math.min(Math.max((value / size) * UNITS, 0), UNITS)) / 10;
    return [along(event.clientX - box.left, box.width), along(event.clientY - box.top, box.height)];
  }
  begin(event) {
    if (this.stroke || event.button > 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.stroke = { width: Number($("pen").value), points: [this.point(event)] };
    this.context = this.canvas.getContext("2d");
    paintStroke(this.context, this.stroke);
    this.find(".paper").classList.add("used");
  }
  move(event) {
    if (!this.stroke || event.pointerId !== this.pointer) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const one of moves.length ? moves : [event]) this.extend(this.point(one));
  }
  extend(point) {
    const last = this.stroke.points.at(-1);
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) < 2) return; // a trembling hand adds nothing
    this.stroke.points.push(point);
    paintStroke(this.context, { width: this.stroke.width, points: [last, point] });
  }
  end(event) {
    if (!this.stroke || event.pointerId !== this.pointer) return;
    if (event.type === "pointerup") this.extend(this.point(event));
    this.drawing.strokes.push(this.stroke);
    this.stroke = null;
    this.update();
  }

  undo() {
    if (this.drawing.strokes.length) this.drawing.strokes.pop();
    else this.drawing.picture = null;
    this.update();
  }
  clear() { this.show({ strokes: [] }); }
  show(drawing) {
    this.drawing = copy(drawing);
    this.update();
  }
  upload() { this.find("input").click(); }
  async read() {
    const file = this.find("input").files[0];
    this.find("input").value = ""; // the same file may be chosen again
    if (!file) return;
    if (file.size > start.limits.upload) {
      this.complain(`The file has ${Math.round(file.size / 1e6)} MB, ${start.limits.upload / 1e6} MB are allowed; upload a smaller image.`);
      return;
    }
    const answer = await ask("upload", file, "application/octet-stream");
    if (answer.error) this.complain(answer.error);
    else this.show({ strokes: [], picture: answer.picture });
  }

  update() {
    const since = performance.now();
    this.complain("");
    this.see(null);
    this.describe();
    this.changed(since);
    return this.repaint();
  }
  repaint() { return this.stroke ? null : paint(this.canvas, this.drawing); }
  describe() {
    const count = this.drawing.strokes.length;
    const strokes = `${count} ${count === 1 ? "stroke" : "strokes"}`;
    const content = this.empty ? "empty" : this.drawing.picture ? `an uploaded symbol and ${strokes}` : strokes;
    this.canvas.setAttribute("aria-label", `${this.title}: ${content}. Draw with mouse, finger or pen; or upload an image.`);
    this.find(".paper").classList.toggle("used", !this.empty);
    this.find(".undo").disabled = this.find(".clear").disabled = this.empty;
  }
  complain(text) {
    this.find(".pad-error").textContent = text;
    this.find(".pad-error").hidden = !text;
  }
  see(address) {
    const image = this.find(".seen img");
    this.find(".seen").classList.toggle("there", Boolean(address));
    if (address) image.src = address;
    else image.removeAttribute("src");
    image.alt = address ? `${this.title}, as the network sees it: the symbol centred on 28 by 28 pixels, in thin lines.` : "";
  }
}

// ---- same or different? ---------------------------------------------------------------------------

const comparison = new Line("compare", (answer, since) => {
  if (answer.error) {
    gauge(null, answer.error);
    return;
  }
  left.see(answer.left);
  right.see(answer.right);
  const sure = answer.same ? answer.probability : 1 - answer.probability;
  gauge(answer.probability, answer.same ? "= Same symbol" : "≠ Different symbols", answer.same, percent(sure));
  $("pair-detail").textContent = `cosine similarity ${answer.similarity.toFixed(2)}`;
  $("pair-verdict").dataset.milliseconds = (performance.now() - since).toFixed(1);
});

function tell(place, text, kind, sure) {
  $(place).className = `answer ${kind}`;
  $(place).replaceChildren(element("span", "", text), ...(sure ? [element("span", "sure", `${sure} sure`)] : []));
}

function gauge(probability, text, same, sure) {
  const known = probability !== null;
  $("gauge").classList.toggle("on", known);
  $("gauge").setAttribute("aria-label", known
    ? `Gauge from different to same: the probability of the same symbol is ${percent(probability)}`
    : "Gauge: nothing to compare yet");
  $("needle").style.transform = `rotate(${known ? -90 + 180 * probability : 0}deg)`;
  tell("pair-verdict", text, known ? (same ? "same" : "different") : "", sure);
  $("pair-detail").textContent = "";
}

function compare(since) {
  if (left.empty || right.empty) {
    comparison.forget();
    for (const pad of [left, right]) seeAlone(pad);
    gauge(null, left.empty && right.empty ? "Draw a symbol in each box." : `Now draw in the ${left.empty ? "left" : "right"} box.`);
  } else comparison.ask({ left: left.drawing, right: right.drawing }, since);
}

async function seeAlone(pad) {
  if (pad.empty) return;
  const before = pad.drawing.strokes.length;
  const answer = await ask("see", JSON.stringify({ drawing: pad.drawing }));
  if (answer.unreachable) trouble(answer.error);
  else if (answer.drawing && !pad.empty && pad.drawing.strokes.length === before) pad.see(answer.drawing);
}

const left = new Pad($("left"), "Left symbol", compare);
const right = new Pad($("right"), "Right symbol", compare);
for (const pair of start.pairs) {
  starter("pair-starters", pair.name, () => {
    left.drawing = copy(pair.left);
    right.drawing = copy(pair.right);
    left.update();
    right.update();
  });
}

function starter(place, text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  $(place).append(button);
}

// ---- your own symbols -----------------------------------------------------------------------------

let support = []; // {name, examples: [drawing], again: drawing or undefined}
let turn = 0; // whose second drawing comes next

const ranked = new Line("rank", (answer, since) => {
  if (answer.error) {
    showRanking([], answer.error);
    return;
  }
  query.see(answer.query);
  const best = answer.ranking[0];
  const text = best.probability >= 0.5
    ? `It is “${best.name}”`
    : `Probably none of them; nearest is “${best.name}”`;
  showRanking(answer.ranking, text, best.probability >= 0.5);
  const spent = performance.now() - since;
  $("rank-verdict").dataset.milliseconds = spent.toFixed(1);
  $("rank-detail").textContent = `The bars show the probability of being the same symbol. Answered in ${Math.max(1, Math.round(spent))} ms.`;
});

function showRanking(ranking, text, found) {
  tell("rank-verdict", text, ranking.length ? (found ? "same" : "different") : "", found && percent(ranking[0].probability));
  $("rank-detail").textContent = "";
  $("ranking").replaceChildren(...ranking.map((one, place) => {
    const item = document.createElement("li");
    const symbol = support.find((known) => known.name === one.name);
    const canvas = thumbnail(symbol?.examples.at(-1), `Drawing of ${one.name}`);
    const bar = element("span", "track-line");
    bar.append(element("span"));
    bar.firstChild.style.width = `${Math.max(1, 100 * one.probability)}%`;
    bar.setAttribute("aria-hidden", "true");
    item.append(canvas, element("span", "who", one.name), bar, element("span", "percent", percent(one.probability).replace("over ", ">").replace("under ", "<")));
    item.title = `${place + 1}. ${one.name}: cosine similarity ${one.similarity.toFixed(2)}`;
    return item;
  }));
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function thumbnail(drawing, label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  if (drawing) requestAnimationFrame(() => paint(canvas, drawing, 22));
  return canvas;
}

function rank(since) {
  ranked.forget();
  if (support.length < 2) showRanking([], support.length ? "Add one more symbol, then draw a query." : "Make a support set of two symbols or more.");
  else if (query.empty) showRanking([], "Draw one of the symbols here.");
  else ranked.ask({ support: support.map(({ name, examples }) => ({ name, examples })), query: query.drawing }, since);
  if (!query.empty && support.length < 2) seeAlone(query);
}

function say(text, backTo) {
  $("set-note").replaceChildren(text);
  if (!backTo) return;
  const button = element("button", "", "Bring back");
  button.type = "button";
  button.addEventListener("click", () => {
    support = backTo;
    say("The set is back.");
    showSupport();
  });
  $("set-note").append(button);
}

function showSupport() {
  $("count").textContent = support.length ? `${support.length} of ${start.limits.classes} symbols` : "";
  $("draw-one").disabled = !support.some((symbol) => symbol.again);
  $("support").replaceChildren(...support.map((symbol) => {
    const item = document.createElement("li");
    const count = symbol.examples.length;
    const canvas = thumbnail(symbol.examples.at(-1), `Example of ${symbol.name}`);
    const name = element("input");
    name.type = "text";
    name.value = symbol.name;
    name.spellcheck = false;
    name.setAttribute("aria-label", `Name of ${symbol.name}; change it here`);
    name.addEventListener("change", () => rename(symbol, name));
    const remove = element("button", "remove", "×");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove ${symbol.name}`);
    remove.addEventListener("click", () => {
      const before = support;
      support = support.filter((other) => other !== symbol);
      say(`Removed “${symbol.name}”. `, before);
      showSupport();
      ($("support").querySelector(".remove") ?? $("name")).focus();
    });
    item.append(canvas, name, remove);
    if (count > 1) {
      const many = element("span", "many", `${count}×`);
      many.title = `${count} examples`;
      item.append(many);
    }
    return item;
  }));
  rank(performance.now());
}

const tidy = (text) => text.trim().split(/\s+/).join(" ");
const named = (name) => support.find((symbol) => symbol.name.toLowerCase() === name.toLowerCase());

function badName(name) {
  if (!name) return "Type a name for the symbol first.";
  if ([...name].length > start.limits.name) return `A name may have ${start.limits.name} characters at most; shorten it.`;
  return "";
}

function rename(symbol, input) {
  const name = tidy(input.value);
  const other = named(name);
  const wrong = badName(name) || (other && other !== symbol ? `Another symbol is called “${other.name}” already.` : "");
  if (!wrong) symbol.name = name;
  say(wrong);
  showSupport();
}

function addSymbol(event) {
  event.preventDefault();
  const name = tidy($("name").value);
  const known = named(name);
  const wrong = teach.empty ? "Draw the symbol first."
    : badName(name) || (!known && support.length >= start.limits.classes ? `The set has ${start.limits.classes} symbols, which is all it holds; remove one.` : "")
    || (known && known.examples.length >= start.limits.examples ? `“${known.name}” has ${start.limits.examples} examples already.` : "");
  if (wrong) {
    say(wrong);
    (teach.empty ? $("add") : $("name")).focus();
    return;
  }
  if (known) known.examples.push(teach.drawing);
  else support = [...support, { name, examples: [teach.drawing] }];
  say(known ? `“${known.name}” has ${known.examples.length} examples now.` : `Added “${name}”.`);
  $("name").value = "";
  teach.clear();
  showSupport();
}

const teach = new Pad($("teach"), "New symbol", () => seeAlone(teach));
const query = new Pad($("query"), "Which symbol?", rank);
$("teach-form").addEventListener("submit", addSymbol);
for (const set of start.sets) {
  starter("set-starters", set.name, () => {
    const before = support;
    support = set.symbols.map((symbol) => ({ name: symbol.name, examples: [copy(symbol.drawing)], again: symbol.again }));
    turn = 0;
    say(before.length ? `The set is now “${set.name}”. ` : "", before.length ? before : undefined);
    showSupport();
  });
}
$("draw-one").addEventListener("click", () => {
  const ready = support.filter((symbol) => symbol.again);
  if (ready.length) query.show(ready[turn++ % ready.length].again);
});

// ---- the page -------------------------------------------------------------------------------------

const tabs = [$("tab-pairs"), $("tab-symbols")];
function choose(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
}
for (const tab of tabs) {
  tab.addEventListener("click", () => {
    choose(tab);
    history.replaceState(null, "", `#${tab.id.slice(4)}`);
  });
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const next = tabs[event.key === "Home" ? 0 : event.key === "End" ? 1 : 1 - tabs.indexOf(tab)];
    next.focus();
    next.click();
  });
}
if (location.hash === "#symbols") choose($("tab-symbols"));

function showNib() {
  const size = `${(Number($("pen").value) / UNITS) * 320}px`;
  Object.assign($("nib").style, { width: size, height: size });
}
$("pen").addEventListener("input", showNib);
showNib();
document.documentElement.dataset.ready = "yes"; // for tests: everything above has run
