"The shipped pipelines: small enough to travel, quick to answer, true to both of their conditions"
import time
from pathlib import Path

import torch

import stiv_nb
from stiv_nb.data.shapes import ShapeWorld
from stiv_nb.data.video import from_uint8, to_uint8
from stiv_nb.eval.features import fact_accuracy, load_features
from stiv_nb.eval.hardbench import HARD_ROWS, hard_bench
from stiv_nb.eval.toybench import evaluate
from stiv_nb.eval.truth import off_place
from stiv_nb.stiv.inputs import pictures_of_task

FOLDER = Path(stiv_nb.__file__).parent / "assets" / "toy"
FEATURES = FOLDER.parent / "features"
PIPE = stiv_nb.load("toy", device="cpu")


def size(*names):
    "Bytes of shipped pipelines"
    return sum(p.stat().st_size for name in names for p in (FOLDER.parent / name).iterdir())


def draw(prompt, **sampling): return PIPE(prompt, progress=False, **sampling).frames.float()


def test_size_and_files():
    files = sorted(p.name for p in FOLDER.iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert size("toy") <= 12e6


def test_the_feature_network_is_small_and_knows_the_world():
    "The floor is far below what was measured when it was made; its name is that of its weights"
    files = sorted(p.name for p in FEATURES.iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert size("features") <= .5e6
    network = load_features()
    assert network.name.startswith("toy-features-")
    right = fact_accuracy(network, ShapeWorld(split="all", seed=12), 256)
    assert right["colour"] > .95 and right["motion"] > .7


def test_the_world_model_is_small_and_knows_pairs():
    "The floors are far below what was measured when it was made, which its notes keep"
    folder = FOLDER.parent / "world"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert size("world") <= 12e6
    world = stiv_nb.load("world", device="cpu")
    assert {*world.notes["table"]} == {*HARD_ROWS}
    few = {name: HARD_ROWS[name] for name in ("one i", "two i")}
    for name, judged in hard_bench(world, 24, rows=few, steps=8).items():
        assert judged.share("all")[0] > world.notes["table"][name]["all"][0] - .25, name


def test_one_model_serves_every_task():
    "From the given frames alone it finds what lies behind, and between, them"
    folder = FOLDER.parent / "tasks"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    tasks = stiv_nb.load("tasks", device="cpu")
    clips = ShapeWorld(seed=6, starts="anywhere").batch(range(16))[0]
    def gap(drawn, frames):   # mean distance of the object from its true place, in pixels
        drawn = torch.stack([from_uint8(v.frames) for v in drawn])
        return off_place(drawn, clips)[:, frames].mean()
    nothing = [None] * 16
    for task, frames in (("predict", range(4, 8)), ("interpolate", range(1, 7))):
        given = pictures_of_task(clips, task)
        drawn = tasks(nothing, given=given, progress=False)
        frozen = clips[:, [min(i, max(k for k in given if k <= i)) for i in range(8)]]
        assert gap(drawn, frames) < .6 * off_place(frozen, clips)[:, frames].mean(), task


def test_the_student_draws_in_few_steps():
    "In one step far better than its teacher, and right whenever the first frame is given"
    folder = FOLDER.parent / "fast"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    fast = stiv_nb.load("fast", device="cpu")
    def right(pipe, task, steps):
        return evaluate(pipe, ShapeWorld(seed=11), 32, task, steps=steps).share("all")[0]
    assert right(fast, "t2v", 1) > right(PIPE, "t2v", 1) + .3
    assert right(fast, "ti2v", 2) > .85


def test_all_weights_together_are_small():
    assert size("tasks", "fast", "views") <= 12e6
    assert size(*(folder.name for folder in FOLDER.parent.iterdir())) < 40e6


def brightest(colour):
    "(3,) the highest red, green and blue in a video of a square in this colour"
    return draw(f"a {colour} square standing still").amax((0, 2, 3))


def test_the_video_follows_the_text():
    "Red pixels for a red square, blue ones for a blue square"
    r, _, b = brightest("red")
    assert r > b + 50
    r, _, b = brightest("blue")
    assert b > r + 50


def test_the_video_follows_the_image():
    "The free frames are nearer to the clip of the given frame than to any other clip"
    clips, words, _, _ = ShapeWorld(seed=5).batch(range(8))
    first = [to_uint8(c[0]) for c in clips]
    videos = PIPE(words, image=first, progress=False)
    drawn = torch.stack([from_uint8(v.frames) for v in videos])
    gap = (drawn[:, None, 1:] - clips[None, :, 1:]).square().mean((2, 3, 4, 5))
    assert (gap.argmin(1) == torch.arange(8)).float().mean() >= 6/8


def test_quality_has_not_slipped():
    "The floor is far below the quality that was measured when the pipeline was made"
    world = ShapeWorld(seed=11)
    t2v = evaluate(PIPE, world, 32)
    assert t2v.share("colour")[0] > .9
    assert t2v.share("shape")[0] > .5
    ti2v = evaluate(PIPE, world, 32, task="ti2v")
    assert ti2v.share("motion")[0] > .5


def test_answers_quickly():
    "One clip of 8 frames at 20 steps with guidance; best of three, since machines are shared"
    def seconds():
        start = time.perf_counter()
        draw("a red circle moving left", steps=20)
        return time.perf_counter() - start
    assert min(seconds() for _ in range(3)) < 3


def test_a_folder_of_that_name_hides_no_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"toy").mkdir()
    assert stiv_nb.load("toy", device="cpu").weights["sha256"] == PIPE.weights["sha256"]
