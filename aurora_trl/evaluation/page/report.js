// Shows the numbers of the curves under the pointer.
for (const figure of document.querySelectorAll(".panel")) {
  const { axis: [low, high, start, end], lines } = JSON.parse(figure.dataset.curves);
  const svg = figure.querySelector("svg");
  const pointer = figure.querySelector(".pointer");
  const readout = figure.querySelector(".readout");
  const nearest = (steps, step) =>
    steps.reduce((best, value, i) => (Math.abs(value - step) < Math.abs(steps[best] - step) ? i : best), 0);

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const step = low + ((Math.min(Math.max(x, start), end) - start) / (end - start)) * (high - low);
    const rows = lines.map((line) => {
      const i = nearest(line.x, step);
      const row = document.createElement("div");
      const dot = document.createElement("i");
      dot.style.background = line.color;
      row.append(dot, `${line.title} ${line.y[i] ?? "none"} at ${line.x[i]}`);
      return row;
    });
    pointer.setAttribute("x1", x);
    pointer.setAttribute("x2", x);
    readout.replaceChildren(...rows);
    readout.hidden = false;
    const right = x > svg.viewBox.baseVal.width / 2;
    readout.style.left = right ? "auto" : `${(x / svg.viewBox.baseVal.width) * 100 + 2}%`;
    readout.style.right = right ? `${100 - (x / svg.viewBox.baseVal.width) * 100 + 2}%` : "auto";
  });
  svg.addEventListener("pointerleave", () => {
    readout.hidden = true;
    pointer.setAttribute("x1", -9);
    pointer.setAttribute("x2", -9);
  });
}
