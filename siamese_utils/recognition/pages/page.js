"use strict";
// The page's pictures and answers stand in the JSON beside this script. Names of files and classes come from anywhere, so
// they become text nodes and never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const STEP = 24;  // cards that are drawn at once
let chosen = data.cards, shown = 0;

function make(kind, attributes = {}, ...inside) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function picture(which, name) {
  if (which === null) return make("span", {class: "picture"}, "no picture on this page");
  return make("img", {class: "picture", src: "data:image/jpeg;base64," + data.pictures[which], alt: name, width: 96,
    height: 96});
}

function fileName(path) {
  return make("p", {class: "file", title: path}, path.split(/[\\/]/).pop());
}

function bars(rows) {
  const list = make("dl", {class: "bars"});
  for (const [label, value] of rows) {
    const length = make("span");
    length.style.width = 100 * Math.min(1, Math.max(0, value)) + "%";
    list.append(make("dt", {}, label), make("dd", {}, make("span", {class: "track", "aria-hidden": "true"}, length),
      make("span", {}, value.toFixed(2))));
  }
  return list;
}

function near(one) {
  return make("li", {}, picture(one.picture, `${one.said}: ${one.file}`), make("p", {class: "who"}, one.said),
    one.similarity === null ? "" : bars([["similarity", one.similarity]]), fileName(one.file));
}

function card(one) {
  const heading = make("h3", {tabindex: "-1"}, one.heading);
  if (one.mark) heading.append(make("span", {class: "mark"}, one.mark));
  const middle = make("div", {}, heading, make("p", {class: "said"}, one.said), bars(one.bars));
  const left = make("div", {}, picture(one.picture, `${one.what}: ${one.file}`), fileName(one.file));
  const right = make("ul", {class: "near", "aria-label": one.near_are}, ...one.near.map(near));
  const kind = "card" + (one.mark ? " marked" : "") + (one.near.length > 3 ? " wide" : "");
  return make("li", {class: kind}, left, middle, one.near.length ? right : "");
}

function more() {
  const added = chosen.slice(shown, shown + STEP).map(card);
  $("cards").append(...added);
  shown += added.length;
  $("more").hidden = shown >= chosen.length;
  $("more").textContent = `Show ${Math.min(STEP, chosen.length - shown)} more`;
  $("count").textContent = chosen.length ? `${shown} of ${chosen.length} ${data.things} shown.`
    : `None of the ${data.things} is of this kind.`;
  return added;
}

function ask() {
  const asked = name => $(name)?.value ?? "";
  const word = asked("word").trim().toLocaleLowerCase();
  const by = Number(asked("by") || 0), direction = data.sorts[by]?.[1] ?? 1;
  chosen = data.cards.filter(one => (!asked("class") || one.classes.includes(asked("class").slice(1)))
    && (!asked("kind") || one.kinds.includes(asked("kind")))
    && (!word || one.file.toLocaleLowerCase().includes(word)));
  const before = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  chosen.sort((a, b) => direction * before(a.order[by], b.order[by]));
  $("cards").replaceChildren();
  shown = 0;
  more();
}

for (const name of ["class", "kind", "by"]) $(name)?.addEventListener("change", ask);
$("word")?.addEventListener("input", ask);
$("more").addEventListener("click", () => more()[0]?.querySelector("h3").focus());
ask();
