// The sampler of nbs/545_export.ipynb in JavaScript: words, noise, time grid, steps.
// Arrays are flat Float32Arrays; the networks are functions that are given to `draw`.

const MASK = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;

// The finaliser of splitmix64
function mix(h) {
  h = ((h ^ (h >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  h = ((h ^ (h >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return h ^ (h >> 31n);
}

// n uniform numbers in [0, 1) of slot 0 of a seed, as `slot_uniform` of core.random has them
export function uniform(seed, n) {
  const start = mix(mix((BigInt(seed) * GOLDEN + GOLDEN) & MASK));
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const bits = mix((start + (BigInt(i) + 1n) * GOLDEN) & MASK);
    out[i] = Number(bits >> 40n) / (1 << 24);
  }
  return out;
}

// n standard normal numbers (Box-Muller), as `slot_normal` has them
export function normal(seed, n) {
  const u = uniform(seed, 2 * Math.ceil(n / 2));
  const out = new Float32Array(u.length);
  for (let i = 0; i < u.length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(Math.fround(1 - u[i])));
    const angle = 2 * Math.PI * u[i + 1];
    out[i] = radius * Math.cos(angle);
    out[i + 1] = radius * Math.sin(angle);
  }
  return out.subarray(0, n);
}

// Ids of a caption: start, words, end, padding; an error that names a word which is not known
export function idsOf(caption, about) {
  const words = caption.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  if (words.length > about.max_words)
    throw new Error(`the caption has ${words.length} words, at most ${about.max_words} are read`);
  const unknown = words.find((word) => !about.words.includes(word));
  if (unknown !== undefined) throw new Error(`the model does not know the word "${unknown}"`);
  const ids = [1, ...words.map((word) => about.words.indexOf(word) + 3), 2];
  while (ids.length < about.max_words + 2) ids.push(0);
  return ids;
}

// steps + 1 times from 0 to 1, shifted towards noise
export function timeGrid(steps, shift) {
  const grid = [];
  for (let i = 0; i <= steps; i++) {
    const t = i / steps;
    grid.push(t / (t + shift * (1 - t)));
  }
  return grid;
}

function length(x, frames, size) {
  let sum = 0;
  for (const f of frames)
    for (let i = f * size; i < (f + 1) * size; i++) sum += x[i] * x[i];
  return Math.sqrt(sum);
}

// The velocity of a step: guided, renormed, and the null pass's own where a frame is given
export function guidedVelocity(none, full, given, about, { guidance, renorm }) {
  const n = about.latents[0];
  const size = full.length / n;
  const free = [...Array(n).keys()].filter((f) => !given.has(f));
  const v = new Float32Array(full.length);
  for (let i = 0; i < v.length; i++) v[i] = none[i] + guidance * (full[i] - none[i]);
  if (renorm && free.length) {
    const ratio = length(full, free, size) / Math.max(length(v, free, size), 1e-12);
    for (let i = 0; i < v.length; i++) v[i] *= ratio;
  }
  for (const f of given.keys()) v.set(none.subarray(f * size, (f + 1) * size), f * size);
  return v;
}

// Latents of a video. `denoise(z, t)` answers for a batch of two, without and with conditions;
// `given` maps a frame to its clean latent; `watch` is told of every step, and may stop the work
export async function draw({ denoise, noise, given = new Map(), about, steps, guidance, renorm,
                             watch = async () => true }) {
  const size = noise.length / about.latents[0];
  const grid = timeGrid(steps, about.shift);
  const z = Float32Array.from(noise);
  const both = new Float32Array(2 * z.length);
  for (let i = 0; i < steps; i++) {
    both.set(z, 0);
    both.set(z, z.length);
    for (const [f, latent] of given) both.set(latent, z.length + f * size);
    const out = await denoise(both, grid[i]);
    const none = out.subarray(0, z.length);
    const full = out.subarray(z.length);
    const v = guidedVelocity(none, full, given, about, { guidance, renorm });
    const go = await watch({ step: i, t: grid[i], z, none, full, v });
    if (!go) return null;
    for (let j = 0; j < z.length; j++) z[j] += (grid[i + 1] - grid[i]) * v[j];
  }
  for (const [f, latent] of given) z.set(latent, f * size);
  return z;
}

// Where the straight line of a velocity ends: what a pass believes at time t
export function belief(z, v, t) {
  return z.map((x, i) => x + (1 - t) * v[i]);
}
