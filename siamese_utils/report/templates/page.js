(function () {
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
