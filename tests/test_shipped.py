"The shipped checkpoint: small enough to travel, quick to answer, and heeding both of its conditions."
import time
from pathlib import Path

import torch

import stiv_nb
from stiv_nb.data.shapes import ShapeWorld
from stiv_nb.data.video import from_uint8, to_uint8
from stiv_nb.eval.toybench import evaluate

FOLDER = Path(stiv_nb.__file__).parent / "assets" / "toy"
PIPE = stiv_nb.load("toy", device="cpu")


def draw(prompt, **kw): return PIPE(prompt, progress=False, **kw).frames.float()


def test_size_and_files():
    files = sorted(p.name for p in FOLDER.iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= 12e6


def test_text_is_heard():
    "Another colour, another video: red pixels for red, blue ones for blue"
    red, blue = (draw(f"a {c} square standing still").amax((0, 2, 3)) for c in ("red", "blue"))
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50


def test_image_is_seen():
    "The free frames follow the given one: nearer to its own clip than to the neighbour's"
    clips, words, _, _ = ShapeWorld(seed=5).batch(range(8))
    drawn = torch.stack([from_uint8(v.frames) for v in PIPE(words, image=[to_uint8(c[0]) for c in clips], progress=False)])
    gap = (drawn[:, None, 1:] - clips[None, :, 1:]).square().mean((2, 3, 4, 5))
    assert (gap.argmin(1) == torch.arange(8)).float().mean() >= 6/8


def test_quality_has_not_slipped():
    "A floor far below the measured quality, which the checkpoint's own notes hold"
    world = ShapeWorld(seed=11)
    t2v, ti2v = (evaluate(PIPE, world, 32, image=i) for i in (False, True))
    assert t2v.share("colour")[0] > .9 and t2v.share("shape")[0] > .5 and ti2v.share("motion")[0] > .5


def test_answers_quickly():
    "One clip of 8 frames at 20 steps with guidance; best of three, since machines are shared"
    def seconds():
        start = time.perf_counter()
        draw("a red circle moving left", steps=20)
        return time.perf_counter() - start
    assert min(seconds() for _ in range(3)) < 3
