// The viewer: composes grey slices of fixed and moving image on canvases. No library, no network.
(() => {
  "use strict";
  const root = document.documentElement;
  const fail = (reason) => { root.dataset.error = String((reason && reason.message) || reason); };
  window.addEventListener("error", (event) => fail(event.message));
  window.addEventListener("unhandledrejection", (event) => fail(event.reason));

  const viewer = document.getElementById("viewer");
  if (!viewer) { root.dataset.ready = "no-pictures"; return; }
  const form = viewer.querySelector("form");
  const button = document.getElementById("flicker");
  const FLICKER_MS = 500; // one change per half second: well below three flashes a second

  // Each painter fills `out` (RGBA) from the grey values of fixed and moving.
  const painters = {
    overlay({ fixed, moving, out, values }) {
      const share = values.opacity / 100;
      const green = Math.min(1, 2 * (1 - share));
      const magenta = Math.min(1, 2 * share);
      for (let i = 0, o = 0; i < fixed.length; i++, o += 4) {
        out[o] = out[o + 2] = magenta * moving[i];
        out[o + 1] = green * fixed[i];
      }
    },
    checkerboard({ fixed, moving, out, width, values }) {
      for (let i = 0, o = 0; i < fixed.length; i++, o += 4) {
        const row = Math.floor(i / width), column = i % width;
        const odd = (Math.floor(row / values.squares) + Math.floor(column / values.squares)) % 2;
        out[o] = out[o + 1] = out[o + 2] = odd ? moving[i] : fixed[i];
      }
    },
    outlines({ fixed, moving, out, width, edgeLimit, values }) {
      grey(moving, out);
      const limit = edgeLimit * 2 ** ((50 - values.edges) / 20);
      const { strength, upright } = edges(fixed, width);
      for (let i = width + 1; i < fixed.length - width - 1; i++) {
        const step = upright[i] ? width : 1;
        const here = strength[i];
        if (here < limit || here < strength[i - step] || here <= strength[i + step]) continue;
        [out[4 * i], out[4 * i + 1], out[4 * i + 2]] = [255, 212, 0];
      }
    },
    difference({ fixed, moving, out, values }) {
      for (let i = 0, o = 0; i < fixed.length; i++, o += 4) {
        const change = values.gain * (moving[i] - fixed[i]);
        const size = Math.abs(change);
        out[o] = change > 0 ? size : 0.24 * size;
        out[o + 1] = 0.63 * size;
        out[o + 2] = change > 0 ? 0.24 * size : size;
      }
    },
    swipe({ fixed, moving, out, width, values }) {
      const edge = Math.round((values.swipe / 100) * width);
      for (let i = 0, o = 0; i < fixed.length; i++, o += 4) {
        const column = i % width;
        out[o] = out[o + 1] = out[o + 2] = column < edge ? fixed[i] : moving[i];
        if (column === edge && edge > 0) { out[o] = 255; out[o + 1] = 212; out[o + 2] = 0; }
      }
    },
    fixed({ fixed, out }) { grey(fixed, out); },
    moving({ moving, out }) { grey(moving, out); },
  };
  // Sobel strength of every pixel (zero at the border), and where it points up or down rather than across.
  const edges = (image, width) => {
    const strength = new Float32Array(image.length), upright = new Uint8Array(image.length);
    const last = image.length / width - 1;
    for (let row = 1; row < last; row++) {
      for (let i = row * width + 1; i < (row + 1) * width - 1; i++) {
        const a = i - width, b = i + width;
        const down = image[b - 1] + 2 * image[b] + image[b + 1] - image[a - 1] - 2 * image[a] - image[a + 1];
        const across = image[a + 1] + 2 * image[i + 1] + image[b + 1] - image[a - 1] - 2 * image[i - 1] - image[b - 1];
        strength[i] = Math.hypot(down, across);
        upright[i] = Math.abs(down) > Math.abs(across) ? 1 : 0;
      }
    }
    return { strength, upright };
  };
  const grey = (source, out) => {
    for (let i = 0, o = 0; i < source.length; i++, o += 4) out[o] = out[o + 1] = out[o + 2] = source[i];
  };

  class Plane {
    constructor(figure) {
      this.figure = figure;
      this.canvas = figure.querySelector("canvas");
      this.context = this.canvas.getContext("2d");
      this.width = Number(figure.dataset.width);
      this.height = Number(figure.dataset.height);
      this.edgeLimit = Number(figure.dataset.edgeLimit);
      this.positions = JSON.parse(figure.dataset.positions);
      this.slider = figure.querySelector("input.slice");
      this.output = figure.querySelector("output");
      this.tag = figure.querySelector(".tag");
      this.sprites = Object.fromEntries([...figure.querySelectorAll("img[data-kind]")].map((img) => [img.dataset.kind, img]));
      this.scratch = new OffscreenCanvas(this.width, this.height).getContext("2d", { willReadFrequently: true });
      this.known = new Map();
    }
    get index() { return this.slider ? Number(this.slider.value) : 0; }
    decode() { return Promise.all(Object.values(this.sprites).map((img) => img.decode())); }
    slice(kind) {
      const key = kind + this.index;
      if (!this.known.has(key)) {
        if (this.known.size > 60) this.known.clear();
        const { width, height } = this;
        this.scratch.drawImage(this.sprites[kind], 0, this.index * height, width, height, 0, 0, width, height);
        const pixels = this.scratch.getImageData(0, 0, width, height).data;
        this.known.set(key, Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]));
      }
      return this.known.get(key);
    }
    paint(mode, shown, values) {
      const image = this.context.createImageData(this.width, this.height);
      const [fixed, moving] = [this.slice("fixed"), this.slice(shown)];
      for (let o = 3; o < image.data.length; o += 4) image.data[o] = 255;
      painters[mode]({ fixed, moving, out: image.data, width: this.width, edgeLimit: this.edgeLimit, values });
      this.context.putImageData(image, 0, 0);
      this.tag.hidden = mode !== "fixed" && mode !== "moving";
      this.tag.textContent = mode === "fixed" ? "fixed" : shown === "moved" ? shown : "moving, " + shown;
      const position = this.positions[this.index];
      if (this.output) this.output.textContent = position;
      if (this.slider) this.slider.setAttribute("aria-valuetext", position);
    }
    isUniform() {
      const { data } = this.context.getImageData(0, 0, this.width, this.height);
      for (let o = 4; o < data.length; o += 4) {
        if (data[o] !== data[0] || data[o + 1] !== data[1] || data[o + 2] !== data[2]) return false;
      }
      return true;
    }
  }

  const planes = [...viewer.querySelectorAll("figure.plane")].map((figure) => new Plane(figure));
  let timer = 0, phase = "fixed";

  const settings = () => {
    const data = new FormData(form);
    const values = Object.fromEntries(["opacity", "edges", "squares", "gain", "swipe"].map((name) => [name, Number(data.get(name))]));
    return { mode: data.get("mode"), shown: data.get("shown"), values };
  };
  const paint = () => {
    const { mode, shown, values } = settings();
    for (const plane of planes) plane.paint(timer ? phase : mode, shown, values);
  };
  const arrange = () => {
    const { mode } = settings();
    const slider = { overlay: "opacity", outlines: "edges", checkerboard: "squares", difference: "gain", swipe: "swipe" }[mode];
    for (const label of form.querySelectorAll(".slider")) label.hidden = Boolean(timer) || label.dataset.for !== slider;
    for (const help of viewer.querySelectorAll("[data-help]")) help.hidden = help.dataset.help !== (timer ? "flicker" : mode);
    viewer.querySelector(".planes").classList.toggle("drag", mode === "swipe" && !timer);
    button.setAttribute("aria-pressed", String(Boolean(timer)));
    paint();
  };
  const stop = () => {
    if (!timer) return;
    clearInterval(timer);
    timer = 0;
    arrange();
  };
  const start = () => {
    phase = "fixed";
    timer = setInterval(() => { phase = phase === "fixed" ? "moving" : "fixed"; paint(); }, FLICKER_MS);
    arrange();
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => { if (event.target.name === "mode") { stop(); arrange(); } });
  viewer.addEventListener("input", paint);
  button.addEventListener("click", () => (timer ? stop() : start()));
  window.addEventListener("blur", stop);
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  viewer.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !viewer.contains(event.relatedTarget)) stop();
  });
  for (const plane of planes) {
    const drag = (event) => {
      if (timer || settings().mode !== "swipe" || !(event.buttons & 1)) return;
      const box = plane.canvas.getBoundingClientRect();
      const shown = Math.min(box.width, (box.height * plane.width) / plane.height); // width without the bars beside it
      form.elements.swipe.value = 50 + (100 * (event.clientX - box.left - box.width / 2)) / shown;
      paint();
    };
    plane.canvas.addEventListener("pointerdown", drag);
    plane.canvas.addEventListener("pointermove", drag);
  }

  Promise.all(planes.map((plane) => plane.decode())).then(() => {
    viewer.hidden = false;
    arrange();
    root.dataset.painted = String(planes.length);
    root.dataset.ready = planes.some((plane) => !plane.isUniform()) ? "yes" : "uniform";
  }).catch(fail);
})();
