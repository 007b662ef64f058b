(function () {
  // A button beside every piece of code puts it on the clipboard.
  function copied(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    var area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    var done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject();
  }
  document.querySelectorAll(".highlight, .prose > pre").forEach(function (code) {
    var frame = document.createElement("div"), copy = document.createElement("button");
    frame.className = "copyable";
    copy.type = "button";
    copy.textContent = "Copy";
    copy.setAttribute("aria-label", "Copy this code");
    copy.setAttribute("aria-live", "polite");
    copy.addEventListener("click", function () {
      copied(code.textContent.replace(/\n+$/, "")).then(function () { return "Copied"; }, function () { return "Not copied"; })
        .then(function (said) {
          copy.textContent = said;
          copy.setAttribute("aria-label", said);
          setTimeout(function () { copy.textContent = "Copy"; copy.setAttribute("aria-label", "Copy this code"); }, 2000);
        });
    });
    code.replaceWith(frame);
    frame.append(code, copy);
  });

  // On small screens the menu lies over the text: close it once a heading has been chosen.
  var menu = document.querySelector("details.menu");
  menu.addEventListener("click", function (event) {
    if (event.target.closest("a")) menu.open = false;
  });

  var blocks = document.querySelectorAll("details.code");
  var facts = document.querySelector(".facts");
  if (!blocks.length || !facts) return;
  var button = document.createElement("button");
  var open = false;
  function label() { button.textContent = open ? "Hide all code" : "Show all code"; }
  button.type = "button";
  button.addEventListener("click", function () {
    open = !open;
    blocks.forEach(function (block) { block.open = open; });
    label();
  });
  label();
  facts.appendChild(button);
})();
