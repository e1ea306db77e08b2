"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  prefersDark.addEventListener("change", label);
  label();

  for (const track of document.querySelectorAll("[data-track]")) {
    const readout = track.querySelector(".readout");
    const show = (event) => {
      const words = event.target.getAttribute("aria-label");
      if (words && event.target !== track.querySelector(".phases")) readout.textContent = words;
    };
    track.addEventListener("focusin", show);
    track.addEventListener("pointerover", show);
  }

  const format = (value) => {
    if (value === null) return "not finite";
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(4);
    return String(Number(text));
  };

  const nearest = (steps, step) => {
    let low = 0;
    let high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle;
      else high = middle;
    }
    return Math.abs(steps[low] - step) <= Math.abs(steps[high] - step) ? low : high;
  };

  for (const figure of document.querySelectorAll("[data-chart]")) {
    const chart = data[figure.dataset.chart];
    const plot = figure.querySelector(".plot");
    const cross = figure.querySelector(".cross");
    const buttons = [...figure.querySelectorAll(".legend button")];
    const [first, last] = chart.x;
    const steps = [...new Set(chart.lines.flatMap((line) => line.s))].sort((a, b) => a - b);
    let at = steps.length - 1;
    const caption = document.createElement("span");
    caption.className = "quiet";
    figure.querySelector("figcaption").append(caption);

    const show = (place) => {
      at = Math.max(0, Math.min(steps.length - 1, place));
      const step = steps[at];
      const x = last > first ? (1000 * (step - first)) / (last - first) : 500;
      cross.setAttribute("d", `M${x.toFixed(1)} 0V{{ height }}`);
      const words = [`step ${step}`];
      chart.lines.forEach((line, index) => {
        const output = buttons[index].querySelector("output");
        const value = line.v[nearest(line.s, step)];
        output.textContent = format(value);
        if (buttons[index].getAttribute("aria-pressed") === "true") {
          words.push(`${line.name} ${format(value)}`);
        }
      });
      plot.setAttribute("aria-valuenow", step);
      plot.setAttribute("aria-valuetext", words.join(", "));
      caption.textContent = `step ${step}`;
    };
    const hide = () => {
      cross.setAttribute("d", "");
      caption.textContent = "";
      for (const one of buttons) one.querySelector("output").textContent = "";
    };
    plot.tabIndex = 0;
    plot.setAttribute("role", "slider");
    plot.setAttribute("aria-valuemin", first);
    plot.setAttribute("aria-valuemax", last);
    plot.setAttribute("aria-valuenow", last);
    plot.setAttribute("aria-valuetext", plot.getAttribute("aria-label"));
    plot.setAttribute("aria-label", `${figure.querySelector("h3").textContent}: arrow keys show values`);
    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      show(nearest(steps, first + ((event.clientX - box.left) / box.width) * (last - first)));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.round(steps.length / 20));
      const moves = {
        ArrowLeft: at - 1, ArrowRight: at + 1, ArrowDown: at - 1, ArrowUp: at + 1,
        PageDown: at - page, PageUp: at + page, Home: 0, End: steps.length - 1,
      };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    });
    buttons.forEach((one, index) => {
      one.addEventListener("click", () => {
        const isOn = one.getAttribute("aria-pressed") !== "true";
        one.setAttribute("aria-pressed", String(isOn));
        figure.querySelector(`.stroke[data-line="${index}"]`).classList.toggle("off", !isOn);
      });
    });
  }
})();
