"use strict";
{
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const cards = [...document.querySelectorAll(".card")];
  const tip = document.getElementById("tip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["sendDataToCloud"] };

  // Cameras

  const sides = [[0, 1], [1, 2], [2, 3], [3, 0], [0, 5], [1, 5], [2, 5], [3, 5], [2, 4], [3, 4]]; // of a frustum
  const scene = document.getElementById("cameras");

  function lines(indices) {
    const drawn = { x: [], y: [], z: [], colors: [] };
    for (const index of indices) {
      for (const ends of sides) {
        for (const corner of ends) {
          const [x, y, z] = plots.frusta[index][corner];
          drawn.x.push(x); drawn.y.push(y); drawn.z.push(z); drawn.colors.push(plots.colors[index]);
        }
        drawn.x.push(null); drawn.y.push(null); drawn.z.push(null); drawn.colors.push(plots.colors[index]);
      }
    }
    return drawn;
  }

  function cameraTraces() {
    const everyone = plots.names.map((_, index) => index).filter((index) => plots.frusta[index]); // whose pose is known
    const traces = [];
    if (plots.cloud) {
      const [x, y, z] = [0, 1, 2].map((axis) => plots.cloud.positions.map((point) => point[axis]));
      traces.push({ type: "scatter3d", mode: "markers", x, y, z, hoverinfo: "skip", marker: { size: 1.6, color: plots.cloud.colors, line: { width: 0 } } });
    }
    const drawn = lines(everyone);
    traces.push({ type: "scatter3d", mode: "lines", x: drawn.x, y: drawn.y, z: drawn.z, hoverinfo: "skip", line: { width: 3, color: drawn.colors } });
    const [x, y, z] = [0, 1, 2].map((axis) => everyone.map((index) => plots.frusta[index][5][axis]));
    traces.push({
      type: "scatter3d", mode: "markers", x, y, z, customdata: everyone, hoverinfo: "none", name: "cameras",
      marker: { size: plots.names.length > 40 ? 4 : 6, color: everyone.map((index) => plots.colors[index]), symbol: everyone.map((index) => (plots.heldOut[index] ? "diamond" : "circle")), line: { width: 0 } },
    });
    traces.push({ type: "scatter3d", mode: "lines", x: [], y: [], z: [], hoverinfo: "skip", line: { width: 8, color: color("--chosen") }, name: "chosen" });
    return traces;
  }

  function cameraLayout() {
    const axis = { visible: false, showspikes: false };
    const away = 0.95 * Math.max(1, scene.clientHeight / scene.clientWidth); // all of it, in narrow views too
    return {
      scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data", dragmode: "orbit", camera: { eye: { x: 1.15 * away, y: -1.15 * away, z: 0.75 * away } } },
      paper_bgcolor: color("--scene"), margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, uirevision: "same",
    };
  }

  let shown;

  function choose(index) {
    // To draw it, plotly tells of the same click again as long as the button is pressed.
    if (index === shown) return;
    shown = index;
    for (const card of cards) card.classList.toggle("chosen", card === cards[index]);
    const drawn = lines(plots.frusta[index] ? [index] : []);
    const chosen = scene.data.length - 1;
    Plotly.restyle(scene, { x: [drawn.x], y: [drawn.y], z: [drawn.z] }, [chosen]);
  }

  function goTo(index) {
    if (getComputedStyle(cards[index]).display === "none") show("all");
    cards[index].scrollIntoView({ block: "center" });
    cards[index].focus({ preventScroll: true });
  }

  // plotly tells neither where the mouse is, always, nor of clicks that are shorter than a frame.
  let pointer = { clientX: 0, clientY: 0 }, pressed = pointer, pointedAt;
  const isStill = () => Math.hypot(pointer.clientX - pressed.clientX, pointer.clientY - pressed.clientY) < 5;
  scene.addEventListener("pointermove", (event) => { pointer = event; }, true);
  scene.addEventListener("pointerdown", (event) => { pointer = pressed = event; }, true);
  scene.addEventListener("click", () => { if (pointedAt !== undefined && isStill()) visit(pointedAt); }, true);

  function visit(index) {
    tip.hidden = true;
    choose(index);
    goTo(index);
  }

  function showTip(index) {
    tip.querySelector("img").src = cards[index].querySelector("img").src;
    const name = document.createElement("div");
    name.className = "name";
    name.textContent = plots.names[index];
    const words = plots.words[index].map((text) => Object.assign(document.createElement("div"), { textContent: text }));
    tip.lastElementChild.replaceChildren(name, ...words);
    tip.hidden = false;
    const x = pointer.clientX + 16, y = pointer.clientY + 16;
    tip.style.left = `${Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y, innerHeight - tip.offsetHeight - 4))}px`;
  }

  const cameraOf = (event) => event.points.map((point) => point.customdata).find((index) => index !== undefined);

  function drawCameras() {
    return Plotly.newPlot(scene, cameraTraces(), cameraLayout(), config).then(() => {
      scene.on("plotly_hover", (event) => {
        pointedAt = cameraOf(event);
        if (pointedAt !== undefined) showTip(pointedAt);
      });
      scene.on("plotly_unhover", () => { tip.hidden = true; pointedAt = undefined; });
      scene.on("plotly_click", (event) => {
        const index = cameraOf(event);
        if (index !== undefined && isStill()) visit(index);
      });
    });
  }

  for (const button of document.querySelectorAll(".show-camera")) {
    button.addEventListener("click", () => {
      choose(Number(button.dataset.index));
      scene.scrollIntoView({ block: "center" });
    });
  }

  // Curves

  function drawCurves() {
    const axis = { gridcolor: color("--line"), zeroline: false, color: color("--dim"), automargin: true };
    return Promise.all([...document.querySelectorAll(".curve")].map((element, index) => {
      const curve = plots.curves[index];
      const trace = { x: curve.steps, y: curve.values, mode: "lines", line: { color: color("--link"), width: 2 }, hovertemplate: "step %{x}: %{y}<extra></extra>" };
      return Plotly.react(element, [trace], {
        title: { text: curve.name, font: { size: 14, color: color("--text") }, x: 0.02, y: 0.96, yanchor: "top" },
        paper_bgcolor: color("--back"), plot_bgcolor: color("--back"), margin: { l: 48, r: 12, t: 36, b: 44 },
        xaxis: { ...axis, title: { text: "step", font: { size: 12 }, standoff: 4 } },
        yaxis: curve.isLogarithmic ? { ...axis, type: "log", dtick: "D2" } : axis,
      }, { ...config, displayModeBar: false });
    }));
  }

  // Which cards are shown

  const list = document.querySelector(".cards");

  function show(which) {
    list.classList.remove("flagged", "held-out");
    if (which !== "all") list.classList.add(which);
    document.querySelector(`input[name=filter][value=${which}]`).checked = true;
  }

  for (const input of document.querySelectorAll("input[name=filter]")) {
    input.addEventListener("change", () => show(input.value));
  }
  addEventListener("hashchange", () => {
    const index = cards.findIndex((card) => `#${card.id}` === location.hash);
    if (index >= 0) visit(index);
  });

  // A larger picture

  const larger = document.getElementById("larger");
  const buttons = [...document.querySelectorAll(".picture")];
  let opened = 0;

  function enlarge(index) {
    opened = (index + buttons.length) % buttons.length;
    const source = buttons[opened].querySelector("img"), image = larger.querySelector("img");
    image.src = source.src;
    image.alt = source.alt;
    larger.querySelector("figcaption").textContent = source.alt;
    if (!larger.open) larger.showModal();
  }

  buttons.forEach((button, index) => button.addEventListener("click", () => enlarge(index)));
  larger.querySelector(".previous").addEventListener("click", () => enlarge(opened - 1));
  larger.querySelector(".next").addEventListener("click", () => enlarge(opened + 1));
  larger.addEventListener("click", (event) => { if (event.target === larger) larger.close(); });
  larger.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") enlarge(opened - 1);
    if (event.key === "ArrowRight") enlarge(opened + 1);
  });

  drawCameras();  // on a dark ground in any case
  // One after the other: plotly bears no second drawing of what it is still drawing.
  let drawn = drawCurves();
  dark.addEventListener("change", () => { drawn = drawn.then(drawCurves); });
}
