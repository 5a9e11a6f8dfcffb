"""The JavaScript sampler of the site against Python's numbers; skipped without node"""
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from stiv_nb.core.random import slot_normal
from stiv_nb.flow.solver import euler, time_grid
from stiv_nb.stiv.condition import replace_frames
from stiv_nb.stiv.guidance import jit_cfg, renorm
from stiv_nb.stiv.pipeline import load

NODE = shutil.which("node")
SAMPLER = Path(__file__).parent.parent/"docs/assets/play/sampler.mjs"
SHAPE = (8, 8, 8, 8)
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

# the network of the test: each pass answers with another multiple of its own input
CODE = """
import * as s from %s;
const {about, seed, steps, guidance, given, caption} = %s;
const n = about.latents.reduce((a, b) => a * b);
const noise = s.normal(seed, n);
const denoise = async (both, t) => both.map((x, i) => i < n ? -.3*x + t : .5*x - t*t);
const size = n / about.latents[0];
const clean = new Map(given.map((f) => [f, new Float32Array(size).fill(.1*f + .2)]));
const z = await s.draw({denoise, noise, given: clean, about, steps, guidance, renorm: true});
let unknown = '';
try { s.idsOf('a purple circle', about); } catch (e) { unknown = e.message; }
console.log(JSON.stringify({
  noise: [...noise], z: [...z], ids: s.idsOf(caption, about), grid: s.timeGrid(steps, about.shift),
  unknown}));
"""


def in_node(**asked):
    "What the sampler answers"
    source = CODE % (json.dumps(SAMPLER.as_uri()), json.dumps(asked))
    done = subprocess.run([NODE, "--input-type=module", "-e", source], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_python(noise, given, steps, guidance, shift):
    "The same from the library's parts"
    mask = torch.zeros(1, SHAPE[0]).bool()
    mask[0, given] = True
    clean = (.1*torch.arange(SHAPE[0]) + .2)[None, :, None, None, None].expand_as(noise)
    def velocity(z, t):
        null = -.3*z + t
        full = .5*replace_frames(z, clean, mask) - t*t
        v = renorm(jit_cfg(null, full, guidance), full, mask)
        return replace_frames(v, null, mask)
    z = euler(velocity, noise, time_grid(steps, shift))
    return replace_frames(z, clean, mask)


@pytest.mark.parametrize("seed, given", [(0, []), (7, [0]), (2**40 + 3, [0, 7])])
def test_noise_steps_and_given_frames(seed, given):
    pipe = load("toy", device="cpu")
    words = [*pipe.text.config.words]
    about = dict(latents=SHAPE, words=words, max_words=30, shift=4.)
    caption = "A red circle, moving LEFT!"
    found = in_node(about=about, seed=seed, steps=6, guidance=3., given=given, caption=caption)
    noise = slot_normal(seed, 0, torch.arange(1), 0, SHAPE)
    assert torch.allclose(torch.tensor(found["noise"]), noise.flatten(), atol=1e-5)
    assert found["grid"] == pytest.approx(time_grid(6, 4.).tolist(), abs=1e-6)
    z = in_python(noise, given, 6, 3., 4.)
    assert torch.allclose(torch.tensor(found["z"]), z.flatten(), atol=1e-4)
    ids = pipe.text.tokenizer.encode(caption)
    assert found["ids"] == ids + [0]*(32 - len(ids))
    assert found["unknown"] == 'the model does not know the word "purple"'
