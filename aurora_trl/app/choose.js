// Says which of the things with a number was clicked.
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-index]");
  if (!chosen) return;
  trigger("click", { index: parseInt(chosen.dataset.index) });
  const shown = chosen.closest("[data-shows]");
  if (shown) document.querySelector(shown.dataset.shows)?.scrollIntoView({ behavior: "smooth" });
});
