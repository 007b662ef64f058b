// Search over SEARCH, the index above: [file, title, [[id, heading, text], ...]] for every page. Nothing is fetched.
(function () {
  var dialog = document.querySelector("dialog.search");
  var openers = document.querySelectorAll("button.find");
  if (!dialog.showModal) return;
  var input = dialog.querySelector("input"), said = document.getElementById("search-said");
  var list = document.getElementById("search-found"), most = 30, parts = null, current = -1;

  function fold(text) { return text.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase(); }
  function words(text) {
    return Array.from(text.matchAll(/[\p{L}\p{N}\p{M}]+(?:[.,'’][\p{L}\p{N}]+)*/gu), function (found) {
      return { word: fold(found[0]), at: found.index, end: found.index + found[0].length };
    });
  }
  function index() {
    return SEARCH.flatMap(function (page) {
      return page[2].map(function (part) {
        return { file: page[0], title: page[1], id: part[0], heading: part[1] || page[1], text: part[2],
          inTitle: words(page[1]), inHeading: words(part[1]), inText: words(part[2]) };
      });
    });
  }
  // How well a word fits: whole, as a beginning, or not.
  function fit(term, among) {
    var best = 0;
    among.forEach(function (one) {
      if (one.word === term) best = 1;
      else if (best < 0.6 && one.word.startsWith(term)) best = 0.6;
    });
    return best;
  }
  function search(query) {
    var terms = Array.from(new Set(words(query).map(function (one) { return one.word; })));
    if (!terms.length) return { terms: terms, found: [] };
    var fits = terms.map(function (term) {
      return parts.map(function (part) {
        var times = part.inText.filter(function (one) { return one.word.startsWith(term); }).length;
        return 10 * fit(term, part.inHeading) + 4 * fit(term, part.inTitle) + 2 * fit(term, part.inText) + Math.log1p(times);
      });
    });
    // A word that few parts have tells more than one that many have.
    var weights = fits.map(function (of) { return Math.log(1 + parts.length / (1 + of.filter(Boolean).length)); });
    var phrase = fold(query.trim());
    var found = parts.map(function (part, n) {
      var all = fits.every(function (of) { return of[n] > 0; });
      var score = fits.reduce(function (sum, of, t) { return sum + weights[t] * of[n]; }, 0);
      if (terms.length > 1 && fold(part.heading + " " + part.text).includes(phrase)) score *= 1.5;
      return { part: part, score: all ? score : 0 };
    });
    found = found.filter(function (one) { return one.score > 0; });
    return { terms: terms, found: found.sort(function (a, b) { return b.score - a.score; }) };
  }

  function marked(text, hits, from, to) {
    var line = document.createElement("span"), at = from;
    if (from > 0) line.append("… ");
    hits.forEach(function (hit) {
      if (hit.at < from || hit.end > to) return;
      var mark = document.createElement("mark");
      mark.textContent = text.slice(hit.at, hit.end);
      line.append(text.slice(at, hit.at), mark);
      at = hit.end;
    });
    line.append(text.slice(at, to), to < text.length ? " …" : "");
    return line;
  }
  function hitsIn(among, terms) {
    return among.filter(function (one) { return terms.some(function (term) { return one.word.startsWith(term); }); });
  }
  // The piece of a text, some 160 characters long, in which most different words of the query stand.
  function piece(part, terms) {
    var hits = hitsIn(part.inText, terms), best = 0, most = 0, length = 160;
    hits.forEach(function (hit) {
      var near = hits.filter(function (one) { return one.at >= hit.at && one.end <= hit.at + length - 40; });
      var different = terms.filter(function (term) { return near.some(function (one) { return one.word.startsWith(term); }); });
      if (different.length > most) { most = different.length; best = hit.at; }
    });
    var from = Math.max(0, best - 40), to = Math.min(part.text.length, from + length);
    while (from > 0 && /\S/.test(part.text[from - 1])) from -= 1;
    while (to < part.text.length && /\S/.test(part.text[to])) to += 1;
    return marked(part.text, hits, from, to);
  }

  function choose(n) {
    var options = list.children;
    if (current >= 0 && options[current]) options[current].setAttribute("aria-selected", "false");
    current = options.length ? (n + options.length) % options.length : -1;
    input.setAttribute("aria-expanded", String(options.length > 0));
    if (current < 0) { input.removeAttribute("aria-activedescendant"); return; }
    options[current].setAttribute("aria-selected", "true");
    input.setAttribute("aria-activedescendant", options[current].id);
    options[current].scrollIntoView({ block: "nearest" });
  }
  function show() {
    var result = search(input.value), shown = result.found.slice(0, most);
    list.replaceChildren.apply(list, shown.map(function (one, n) {
      var option = document.createElement("a"), part = one.part;
      option.id = "search-found-" + n;
      option.href = part.file + (part.id ? "#" + encodeURIComponent(part.id) : "");
      option.tabIndex = -1;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      var heading = document.createElement("strong"), where = document.createElement("small");
      heading.append(marked(part.heading, hitsIn(words(part.heading), result.terms), 0, part.heading.length));
      where.textContent = part.heading.startsWith(part.title) ? "" : part.title;
      option.append(heading, where, piece(part, result.terms));
      return option;
    }));
    list.scrollTop = 0;
    current = -1;
    choose(0);
    var count = result.found.length;
    said.textContent = !result.terms.length ? "" : count === 0 ? "Nothing found. Every word must occur; beginnings of words do."
      : (count > most ? "The first " + most + " of " : "") + count + (count === 1 ? " place" : " places");
  }

  function open() {
    parts = parts || index();
    if (!dialog.open) dialog.showModal();
    input.select();
    input.focus();
  }
  openers.forEach(function (opener) {
    opener.hidden = false;
    opener.addEventListener("click", open);
  });
  document.addEventListener("keydown", function (event) {
    var typing = event.target.closest && event.target.closest("input, textarea, select, [contenteditable]");
    var slash = event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !typing;
    var letter = event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey);
    if (slash || letter) { event.preventDefault(); open(); }
  });
  input.addEventListener("input", show);
  input.addEventListener("keydown", function (event) {
    if (event.key === "ArrowDown") choose(current + 1);
    else if (event.key === "ArrowUp") choose(current - 1);
    else if (event.key === "Enter" && current >= 0) list.children[current].click();
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", function (event) {
    if (event.target.closest("a") && !event.ctrlKey && !event.metaKey) dialog.close();
  });
  dialog.querySelector("button").addEventListener("click", function () { dialog.close(); });
  dialog.addEventListener("click", function (event) { if (event.target === dialog) dialog.close(); });
})();
