// The player of the site: prompt, first frame, guidance and seed in, a video out, in this page.
// Graphs are made by `stiv export`, the runtime is onnxruntime-web; both lie beside this file.
import { belief, draw, idsOf, normal } from "./sampler.mjs";

const HERE = new URL(".", import.meta.url).href;
const EXAMPLES = ["a red circle moving left", "a small green cross moving up",
                  "a yellow triangle growing", "a big blue square moving down"];
const COLOURS = { red: [230, 40, 40], green: [40, 190, 60], blue: [50, 80, 230],
                  yellow: [230, 210, 40], cyan: [40, 200, 210], magenta: [230, 50, 220],
                  background: [26, 26, 26] };
const KEPT = 8;   // steps whose beliefs can be looked at

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    name in made ? (made[name] = value) : made.setAttribute(name, value);
  made.append(...children);
  return made;
};

// --- the model

async function load(say) {
  say("Loading the runtime …");
  const about = await (await fetch(HERE + "graphs/graphs.json")).json();
  const ort = await import(HERE + "runtime/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = HERE + "runtime/";
  ort.env.wasm.numThreads = 1;
  const open = async (name) => {
    say(`Loading the model: ${name} …`);
    return ort.InferenceSession.create(`${HERE}graphs/${name}.onnx`);
  };
  const graphs = {};
  for (const name of ["text", "encode", "decode", "denoise"]) graphs[name] = await open(name);
  const floats = (data, dims) => new ort.Tensor("float32", data, dims);
  const n = about.latents.reduce((a, b) => a * b);

  const words = async (caption) => {
    const rows = [idsOf("", about), idsOf(caption, about)];
    const ids = BigInt64Array.from(rows.flat().map(BigInt));
    const dims = [2, rows[0].length];
    const out = await graphs.text.run({ ids: new ort.Tensor("int64", ids, dims) });
    const mask = new ort.Tensor("bool", Uint8Array.from(rows.flat().map((id) => +(id > 0))), dims);
    const micro = floats(Float32Array.from([...about.micro, ...about.micro]), [2, about.micro.length]);
    return { tokens: out.tokens, pooled: out.pooled, mask, micro };
  };
  const encode = async (picture) => {
    const side = about.size;
    const out = await graphs.encode.run({ picture: floats(picture, [1, 3, side, side]) });
    return out.latent.data;
  };
  const decode = async (z) => (await graphs.decode.run({ latents: floats(z, about.latents) })).frames.data;
  const denoiser = (told) => async (both, t) => {
    const z = floats(both, [2, ...about.latents]);
    const out = await graphs.denoise.run({ z, t: floats(Float32Array.of(t, t), [2]), ...told });
    return out.v.data;
  };
  return { about, n, words, encode, decode, denoiser };
}

// --- pictures

// Frame f of flat frames (f, 3, side, side) in [-1, 1] as pixels
function pixels(frames, f, side) {
  const area = side * side;
  const image = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const value = (frames[(3 * f + c) * area + i] + 1) * 127.5;
      image.data[4 * i + c] = Math.round(Math.min(255, Math.max(0, value)));
    }
    image.data[4 * i + 3] = 255;
  }
  return image;
}

function numbers(image) {
  const area = image.width * image.height;
  const out = new Float32Array(3 * area);
  for (let i = 0; i < area; i++)
    for (let c = 0; c < 3; c++) out[c * area + i] = image.data[4 * i + c] / 127.5 - 1;
  return out;
}

function canvas(side, label) {
  return element("canvas", { width: side, height: side, role: "img", "aria-label": label });
}

function strip(frames, n, side, label, click) {
  const row = element("div", { className: "stiv-strip" });
  for (let f = 0; f < n; f++) {
    const one = canvas(side, `${label}, frame ${f}`);
    one.getContext("2d").putImageData(pixels(frames, f, side), 0, 0);
    if (!click) { row.append(one); continue; }
    row.append(element("button", { type: "button", title: "take as first frame",
                                   onclick: () => click(one) }, one));
  }
  return row;
}

// A canvas to paint a first frame on; `picture` is null while nothing was painted
function painter(side, changed) {
  const paper = canvas(side, "first frame: paint here");
  const pen = paper.getContext("2d", { willReadFrequently: true });
  const swatches = element("div", { className: "stiv-swatches" });
  let colour = COLOURS.red;
  let used = false;
  const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
  const clear = () => {
    pen.fillStyle = css(COLOURS.background);
    pen.fillRect(0, 0, side, side);
    used = false;
    changed(false);
  };
  const paint = (event) => {
    if (!event.buttons) return;
    const box = paper.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * side;
    const y = ((event.clientY - box.top) / box.height) * side;
    pen.fillStyle = css(colour);
    pen.beginPath();
    pen.arc(x, y, 2.5, 0, 2 * Math.PI);
    pen.fill();
    used = true;
    changed(true);
  };
  paper.onpointerdown = (event) => { paper.setPointerCapture(event.pointerId); paint(event); };
  paper.onpointermove = paint;
  for (const [name, value] of Object.entries(COLOURS)) {
    const choose = (event) => {
      colour = value;
      for (const other of swatches.children) other.setAttribute("aria-pressed", other === event.target);
    };
    const swatch = element("button", { type: "button", title: name, "aria-label": `paint ${name}`,
                                       "aria-pressed": name === "red", onclick: choose });
    swatch.style.background = css(value);
    swatches.append(swatch);
  }
  const take = (from) => {
    pen.drawImage(from, 0, 0);
    used = true;
    changed(true);
  };
  clear();
  const picture = () => (used ? numbers(pen.getImageData(0, 0, side, side)) : null);
  return { paper, swatches, clear, take, picture };
}

// --- the page

function slider(label, { min, max, step, value }) {
  const shown = element("output", {}, String(value));
  const input = element("input", { type: "range", min, max, step, value });
  input.oninput = () => { shown.value = input.value; };
  return { input, row: element("label", {}, `${label} `, shown, input) };
}

function build(root, model, say) {
  const { about } = model;
  const [n] = about.latents;
  const side = about.size;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const prompt = element("input", { type: "text", value: EXAMPLES[0], spellcheck: false });
  const seed = element("input", { type: "number", min: 0, max: 2 ** 40, value: 0 });
  const guidance = slider("guidance", { min: 0, max: 8, step: .1, value: about.guidance });
  const steps = slider("steps", { min: 1, max: 40, step: 1, value: about.steps });
  const renorm = element("input", { type: "checkbox", checked: about.renorm });
  const note = element("p", { className: "stiv-note" });
  const paint = painter(side, (used) => {
    note.textContent = used ? "This picture is the first frame." :
      "Paint a first frame, or click a frame below to take it. Empty: text alone.";
  });
  const go = element("button", { type: "submit", className: "md-button md-button--primary" }, "Draw");
  const screen = canvas(side, "the video");
  const pause = element("button", { type: "button", className: "md-button" }, still ? "Play" : "Pause");
  const frames = element("div");
  const way = element("details", { hidden: true }, element("summary", {}, "What it believed on the way"));
  const at = slider("moment", { min: 0, max: 0, step: 1, value: 0 });
  const beliefs = element("div");
  way.append(at.row, beliefs);

  let film = null;
  let shown = 0;
  let playing = !still;
  const show = () => {
    if (film) screen.getContext("2d").putImageData(pixels(film, shown, side), 0, 0);
  };
  pause.onclick = () => {
    playing = !playing;
    pause.textContent = playing ? "Pause" : "Play";
  };
  setInterval(() => {
    if (!film || !playing) return;
    shown = (shown + 1) % n;
    show();
  }, 1000 / about.fps);

  let kept = [];
  const look = async () => {
    const one = kept[at.input.value];
    if (!one) return;
    const rows = [["told nothing", one.none, []], ["told all", one.full, one.given],
                  ["guided", one.v, one.given]];
    const made = [];
    for (const [name, v, seen] of rows) {
      const guess = belief(one.z, v, one.t);
      for (const [f, latent] of seen) guess.set(latent, f * latent.length);
      const decoded = await model.decode(guess);
      made.push(element("p", {}, name), strip(decoded, n, side, name));
    }
    beliefs.replaceChildren(element("p", {}, `step ${one.step + 1}, t = ${one.t.toFixed(2)}`), ...made);
  };
  at.input.addEventListener("input", look);

  const form = element("form", {},
    element("label", { className: "stiv-prompt" }, "prompt ", prompt),
    element("div", { className: "stiv-examples" }, ...EXAMPLES.map((text) =>
      element("button", { type: "button", onclick: () => { prompt.value = text; } }, text))),
    element("div", { className: "stiv-row" },
      element("div", {}, paint.paper, paint.swatches, note,
        element("button", { type: "button", onclick: paint.clear }, "Clear")),
      element("div", { className: "stiv-knobs" }, guidance.row, steps.row,
        element("label", {}, "seed ", seed), element("label", {}, renorm, " renorm"), go),
      element("div", {}, screen, pause)));
  form.onsubmit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      const start = performance.now();
      const told = await model.words(prompt.value);
      const first = paint.picture();
      const given = first ? new Map([[0, await model.encode(first)]]) : new Map();
      const many = Number(steps.input.value);
      const keep = new Set([...Array(KEPT).keys()].map((i) => Math.round((i * (many - 1)) / (KEPT - 1))));
      kept = [];
      const watch = async (one) => {
        say(`step ${one.step + 1} of ${many}`);
        if (keep.has(one.step)) kept.push({ ...one, given, z: one.z.slice(), none: one.none.slice(),
                                            full: one.full.slice() });
        await new Promise(requestAnimationFrame);
        return true;
      };
      const z = await draw({ denoise: model.denoiser(told), noise: normal(seed.value || 0, model.n), given,
                             about, steps: many, guidance: Number(guidance.input.value),
                             renorm: renorm.checked, watch });
      film = await model.decode(z);
      if (first) film.set(first, 0);
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      say(`${prompt.value.trim() || "no words"}: ${n} frames in ${seconds} s, ` +
          `${many} step${many > 1 ? "s" : ""}, seed ${seed.value || 0}`);
      root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
      root.film = film;
      frames.replaceChildren(strip(film, n, side, "the video", paint.take));
      shown = 0;
      show();
      way.hidden = false;
      at.input.max = kept.length - 1;
      at.input.value = 0;
      at.input.oninput();
      await look();
    } catch (error) { say(`${error.message}.`); }
    go.disabled = false;
    if (document.activeElement === document.body) go.focus({ preventScroll: true });
  };
  root.prepend(form, root.querySelector(".stiv-status"), frames, way);
  form.requestSubmit();
  prompt.focus({ preventScroll: true });
}

function start(root) {
  const status = element("p", { className: "stiv-status", role: "status" });
  const say = (text) => { status.textContent = text; };
  const open = element("button", { type: "button", className: "md-button md-button--primary" },
                       "Load the model into this page");
  say("12 MB of weights and 14 MB of runtime; nothing you type leaves this page.");
  open.onclick = async () => {
    open.disabled = true;
    try {
      const model = await load(say);
      open.remove();
      root.querySelector(".stiv-recorded")?.remove();
      build(root, model, say);
    } catch (error) {
      open.disabled = false;
      say(`This copy of the site can't run the model (${error.message}); below are clips drawn before.`);
    }
  };
  root.prepend(open, status);
}

for (const root of document.querySelectorAll(".stiv-play")) start(root);
