"""The command line as users meet it: what it makes, and what it says when something goes wrong"""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import RED, SMALL, check_line, fine, refused
from stiv_nb.apps.demo import STAGES, Demo
from stiv_nb.cli.main import COMMANDS, stiv
from stiv_nb.data.folder import make_samples
from stiv_nb.data.pictures import read_made, read_video
from stiv_nb.data.shapes import ShapeWorld
from stiv_nb.eval.toybench import evaluate
from stiv_nb.stiv.pipeline import load
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES

STIV = [sys.executable, "-m", "stiv_nb.cli.main"]


@pytest.fixture
def recipe(tiny, here):
    "A YAML file of a run that takes a second"
    small = change(
        replace(RECIPES["demo-stiv"], model=SMALL), run__name="small", run__n_steps=6, run__batch=4,
        run__log_every=2, optim__warmup=1, optim__cooldown=0, data__n_clips=16,
        codec__folder=str(tiny), parallel__compile=False)
    path = here / "small.yaml"
    path.write_text(to_yaml(small))
    return path


@pytest.fixture
def clips(here):
    "Five clips: mp4, GIF, WebM and a folder of pictures"
    return make_samples(here / "clips", n=5)


def shell(*args, **kwargs):
    "`stiv` as a process"
    return subprocess.run([*STIV, *map(str, args)], capture_output=True, text=True, **kwargs)


# Help

def test_help_does_not_wait_for_torch():
    code = ("import sys\n"
            "from stiv_nb.cli.main import main\n"
            "main(['--help'])\n"
            "print('torch' in sys.modules)")
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "False"
    for name in COMMANDS: assert f"  {name} " in done.stdout


def test_every_command_has_help_and_an_example():
    fine("--help")
    assert set(COMMANDS) == {
        "demo", "sample", "train", "recipe", "eval", "data make", "data look", "data check",
        "bench", "doctor", "plan", "progressive", "cache", "ablate", "compare", "speedrun", "pack",
        "predict", "upsample", "between", "long", "animate", "camera", "views", "classes",
        "contest", "data ucf101", "data msrvtt", "data presets", "export", "engine run",
        "engine look"}
    for name, (f, example) in COMMANDS.items():
        text = " ".join(fine(*name.split(), "--help").split())
        assert f.__doc__ in text
        assert f"Example: {example}" in text
        assert example.startswith(f"stiv {name}")
    assert "data check" in fine("data")
    assert fine("--version")


@pytest.mark.parametrize("args, says", [
    (["smaple"],                         "did you mean 'sample'?"),
    (["data", "chek"],                   "did you mean 'data check'?"),
    (["xyzzy"],                          "there are "),
    (["sample", RED, "--stepz", "3"],    "did you mean --steps?"),
    (["sample", RED, "--steps", "many"], "--steps can't be 'many'"),
    (["sample", RED, "--steps"],         "--steps"),
    (["train"],                          "RECIPE"),
    (["recipe", "demo-t2x"],             "did you mean 'demo-t2i"),
    (["eval", "--n", "1.5"],             "--n can't be '1.5'"),
    (["eval", "--n", "0"],               "n=0 must be"),
    (["doctor", "now"],                  "now"),
])
def test_mistyped_arguments(args, says): refused(*args, says=says)


def test_help_fits_a_window_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for args in (["--help"], ["data"], *([*name.split(), "--help"] for name in COMMANDS)):
        for line in fine(*args).splitlines(): assert len(line.rstrip()) <= 80, line


def in_terminal(*args, columns=80, **env):
    "What `stiv` prints in a terminal of its own, stdout and stderr together"
    import fcntl
    import pty
    import struct
    import termios
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    here = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    p = subprocess.Popen([*STIV, *map(str, args)], stdin=inner, stdout=inner, stderr=inner,
                         env=here | dict(TERM="xterm") | env)
    os.close(inner)
    said = b""
    while True:
        try: more = os.read(outer, 4096)
        except OSError: break                                  # Linux says so at the end
        if not more: break
        said += more
    os.close(outer)
    p.wait(timeout=30)
    return said.decode().replace("\r\n", "\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
def test_a_terminal_gets_colours_and_whole_words(here):
    text = in_terminal("demo", "--folder", "", columns=40)
    lines = text.splitlines()
    assert lines[0].startswith("\x1b[31mstiv:\x1b[0m ")
    assert len(lines) > 1 and lines[1].startswith("      ")     # broken between words
    assert max(len(line.removeprefix("\x1b[31m")) for line in lines) <= 44
    plain = in_terminal("demo", "--help", NO_COLOR="1")
    assert "usage: stiv demo" in plain and "\x1b" not in plain
    assert "\x1b[1musage:\x1b[0m" in in_terminal("demo", "--help")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(COMMANDS, "doctor", (lambda: 1 + "", "stiv doctor"))
    with pytest.raises(TypeError): stiv("doctor")
    monkeypatch.setenv("STIV_TRACE", "1")
    with pytest.raises(ValueError): stiv("smaple")


# Sampling

@pytest.mark.parametrize("args, says", [
    (["a purple circle"],         "'purple'"),
    (["a red cirkle"],            "did you mean 'circle'?"),
    ([""],                        "the prompt is empty"),
    (["  "],                      "the prompt is empty"),
    ([],                          "say what to draw"),
    (["a circle " * 1111],        "2222 words"),
    (["x" * 10_000],              "not in the vocabulary"),
    ([RED, "--guidance", "nan"],  "guidance=nan"),
    ([RED, "--guidance", "inf"],  "guidance=inf"),
    ([RED, "--guidance", "-1"],   "guidance=-1"),
    ([RED, "--guidance", "1e9"],  "guidance="),
    ([RED, "--steps", "0"],       "steps=0"),
    ([RED, "--steps", "100000"],  "steps=100000"),
    ([RED, "--n-frames", "0"],    "n_frames=0"),
    ([RED, "--n-frames", "99"],   "1 to 12"),
    ([RED, "--size", "33"],       "multiple of 8"),
    ([RED, "--size", "-8"],       "size=-8"),
    ([RED, "--size", "24x33"],    "multiple of 8"),
    ([RED, "--mode", "cfg"],      "'cfg'"),
    ([RED, "--seed", "-1"],       "seed=-1"),
    ([RED, "--image", "none.png"], "none.png"),
    ([RED, "--given", "0"],       "I=FILE"),
    ([RED, "--given", "x=a.png"], "I=FILE"),
    ([RED, "--given", "9=a.png"], "frames 0 to 7"),
    ([RED, "--out", "nowhere/a.mp4"], "create it first"),
    ([RED, "--out", "a.avi"],     "known are .mp4"),
    ([RED, "--out", "a"],         "unknown format"),
    ([RED, "--weights", "nope"],  "no pipeline 'nope'"),
    ([RED, "--weights", "./a/b"], "no pipeline"),
    ([RED, "--weights", ""],      "no pipeline"),
    ([RED, "--negative", "purple"], "negative: word 'purple'"),
    ([RED, "--negative", "…"],    "negative: the prompt is empty"),
    ([RED, "--negative", "red", "--mode", "none"], "no pass without the prompt"),
    ([RED, "a purple circle"],    "prompt 2: word 'purple'"),
    ([RED, "--batch", "0"],       "batch=0"),
    ([RED, "--prompts", "a.txt"], "leave out --like and typed prompts"),
    (["--prompts", "a.txt", "--like", "a.mp4"], "leave out --like"),
    (["--prompts", "a.txt"],      "no file a.txt"),
    (["--like", "a.mp4"],         "no file a.mp4"),
])
def test_sample_refuses(tiny, here, args, says):
    weights = [] if "--weights" in args else ["--weights", tiny]
    out = [] if "--out" in args else ["-o", "x.gif"]
    refused("sample", *args, *weights, *out, says=says)
    assert not [*here.iterdir()]


def test_sample_writes_every_format_and_names_files(tiny, here):
    for suffix in ("mp4", "webm", "gif", "png"):
        fine("sample", RED, "--weights", tiny, "-o", f"a.{suffix}")
    frames, _ = read_video(here / "a.mp4")
    assert len(frames) == 8
    assert Image.open(here / "a.png").width > 8*32
    for _ in range(2): fine("sample", *RED.split(), "--weights", tiny)   # unquoted: one prompt
    fine("sample", RED, "a blue square", "--weights", tiny, "-o", "two.gif")
    fine("sample", RED, "--weights", tiny, "--n-frames", 1)
    assert {p.name for p in here.iterdir()} == {
        "a.mp4", "a.webm", "a.gif", "a.png",
        "a-red-circle-moving-left.mp4",
        "a-red-circle-moving-left-2.mp4",   # nothing is overwritten
        "two-1.gif", "two-2.gif",
        "a-red-circle-moving-left.png"}


def test_the_seed_decides(tiny, here):
    def drawn(name, seed):
        fine("sample", RED, "--weights", tiny, "-o", name, "--seed", seed)
        return Path(name).read_bytes()

    first = drawn("a.gif", 1)
    assert drawn("b.gif", 1) == first
    assert drawn("c.gif", 2) != first


def test_a_file_of_prompts_is_drawn_once(tiny, here):
    path = here / "list.txt"
    lines = ["# ours", RED, "", '{"prompt": "a square", "negative": "big", "seed": 7}', RED]
    path.write_text("\n".join(lines), encoding="utf-8")
    common = ["sample", "--prompts", path, "--weights", tiny]
    assert len(fine(*common).splitlines()) == 3
    files = sorted(here.glob("list/*"))
    assert [p.name for p in files] == ["0001-a-red-circle-moving-left.mp4", "0002-a-square.mp4",
                                       "0003-a-red-circle-moving-left.mp4"]
    first, second, third = (p.read_bytes() for p in files)
    assert first != third                                   # a seed, but another place in its noise
    fine("sample", "a square", "--negative", "big", "--seed", 7, "--weights", tiny, "-o", "b.mp4")
    assert read_made("b.mp4") == read_made(files[1])
    files[1].unlink()
    again = fine(*common).splitlines()
    assert again[0] == "2 of 3 are there already" and len(again) == 2
    assert files[0].read_bytes() == first and files[1].exists()
    refused(*common, "--steps", 1, says="0001-a-red-circle-moving-left.mp4 was drawn with steps=2")
    refused(*common, "--out", "a.mp4", says="must be a folder")


@pytest.mark.parametrize("text, says", [
    ("",                                     "list.txt holds no prompt"),
    ("# only\n\n",                           "list.txt holds no prompt"),
    (f"{RED}\n\na purple circle",            "list.txt, line 3: word 'purple'"),
    ("\n" + "a "*40,                         "list.txt, line 2: the caption has 40 words"),
    ("…",                                    "list.txt, line 1: the prompt is empty"),
    ('{"prompt": 3}',                        "list.txt, line 1: prompt='3' is int"),
    ('{"prompt": "a"',                       "list.txt, line 1: not JSON"),
    ('{"prompt": "a", "sede": 1}',           "did you mean 'seed'?"),
    ('{"prompt": "a", "seed": -1}',          "list.txt, line 1: seed=-1"),
    ('{"prompt": "a", "negative": "b"}',     "list.txt, line 1: negative: word 'b'"),
    ('{"prompt": "a", "image": "none.png"}', "line 1: there is no file"),
    ('["a", "b"]',                           "line 1: a list of JSON is not read"),
])
def test_a_file_of_prompts_is_refused_whole(tiny, here, text, says):
    (here / "list.txt").write_text(text, encoding="utf-8")
    refused("sample", "--prompts", "list.txt", "--weights", tiny, says=says)
    assert [p.name for p in here.iterdir()] == ["list.txt"]


def test_single_pictures_and_their_first_frames_are_compared_too(tiny, here):
    (here / "list.txt").write_text(RED, encoding="utf-8")
    common = ["sample", "--prompts", "list.txt", "--weights", tiny, "--steps", 1]
    single = [*common, "--n-frames", 1]
    fine(*single)
    assert fine(*single) == "1 of 1 are there already"
    refused(*single, "--seed", 1, says="moving-left.png was drawn with seed=0, not 1")
    Image.new("RGB", (32, 32), "red").save("a.png")
    fine(*common, "--image", "a.png")
    assert fine(*common, "--image", "a.png") == "1 of 1 are there already"
    Image.new("RGB", (32, 32), "blue").save("a.png")
    refused(*common, "--image", "a.png", says="moving-left.mp4 was drawn with pictures=")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not count it")
def test_a_long_film_takes_no_more_memory(here):
    "The shipped weights in processes of their own, whose memory the system counts"
    def peak(n):
        told = shell("long", RED, "--frames", n, "--steps", 1, "--out", f"{n}.mp4").stdout
        return float(told.rsplit("at most ", 1)[1].split(" GiB")[0])
    assert 0 < peak(600) < peak(60) + .05


def test_a_result_that_nobody_named_replaces_nothing(tiny, here):
    for out in ([], [], ["-o", "animated.mp4"]):
        fine("animate", RED, "--weights", tiny, "--steps", 1, *out)
    assert {p.name for p in here.iterdir()} == {"animated.mp4", "animated-2.mp4"}


@pytest.mark.parametrize("args, says", [
    (["ablate", "--start", "--dry-run"],                "--dry-run runs nothing: leave one out"),
    (["compare", ".", "--claims", "--base", "a"],       "leave out --base, --scores"),
    (["bench", "--quick", "--device", "cpu"],           "--device cpu: only with --train"),
    (["speedrun", "--seeds"],                           "--seeds names no seed"),
    (["speedrun", "--seeds", "1", "--seeds", "2"],      "--seeds is given twice"),
    (["recipe", "a", "--yaml", "--against", "b"],       "leave one out"),
    (["eval", "toy", "--folder", "clips"],              "are both to be judged: leave one out"),
    (["animate", RED, RED],                             "animate draws one prompt, not 2"),
])
def test_what_would_be_ignored_is_refused(here, args, says):
    refused(*args, says=says)
    assert not [*here.iterdir()]


def test_a_video_is_drawn_again_from_itself(tiny, here, clips):
    fine("sample", RED, "--weights", tiny, "--seed", 5, "--negative", "blue", "-o", "a.mp4")
    fine("sample", "--like", "a.mp4", "--weights", tiny, "-o", "b.mp4")
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    fine("sample", "--like", "a.mp4", "--weights", tiny, "-o", "c.webm")
    assert read_made("c.webm") == read_made("a.mp4")
    made = read_made("a.mp4")
    assert (made["prompt"], made["negative"], made["seed"]) == (RED, "blue", 5)
    assert str(here) not in json.dumps(made) and str(tiny) not in json.dumps(made)
    refused("sample", "--like", "a.mp4", says="'tiny', which are not here")
    said = stiv("sample", "--like", "a.mp4", "--weights", "toy", "-o", "d.mp4")
    assert said[0] == 0 and "other weights: sha256" in said[1]
    foreign = next(clips.rglob("*.mp4"))
    refused("sample", "--like", foreign, says="does not say how it was made")
    fine("sample", RED, "--weights", tiny, "-o", "e.gif")
    refused("sample", "--like", "e.gif", says="e.gif does not say how it was made")


@pytest.mark.parametrize("mode, size", [
    ("P",    (40, 30)),
    ("RGBA", (32, 32)),
    ("LA",   (9, 50)),
    ("I;16", (64, 64)),
    ("L",    (1, 1)),
    ("1",    (33, 31)),
    ("CMYK", (200, 10)),
    ("RGB",  (500, 300)),
])
def test_any_picture_is_a_first_frame(tiny, here, mode, size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16": image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else: image = Image.fromarray(pixels).convert(mode)
    name = "in.tiff" if mode in ("CMYK", "I;16") else "in.png"
    image.save(name)
    common = ["--weights", tiny, "--steps", 1]
    fine("sample", RED, *common, "--image", name, "-o", "out.png")
    fine("sample", RED, *common, "--given", f"0={name}", f"7={name}", "-o", "given.png")


def test_pictures_are_turned_upright(tiny, here):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 255   # red at the left
    exif = Image.Exif()
    exif[0x0112] = 6          # turn it clockwise: red belongs on top
    Image.fromarray(pixels).save("phone.png", exif=exif)
    fine("sample", RED, "--weights", tiny, "--image", "phone.png", "-o", "out.png")
    frame = np.array(Image.open("out.png"))[:, :96]
    assert (frame[2, :, 0] > 200).all()
    assert (frame[-2, :, 0] < 50).all()


def test_files_that_are_not_pictures(tiny, here):
    Path("text.png").write_text("not a picture")
    Path("empty.png").touch()
    Path("half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    Image.fromarray(np.zeros((8, 8), np.float32)).save("floats.tiff")
    for name in ("text.png", "empty.png", "half.png", ".", "floats.tiff"):
        says = "" if name == "floats.tiff" else name
        refused("sample", RED, "--weights", tiny, "--image", name, "-o", "x.gif", says=says)
    assert not Path("x.gif").exists()


# Pipelines

def test_folders_that_are_not_pipelines(tiny, here):
    def copy(name):
        (here / name).mkdir()
        for p in Path(tiny).iterdir(): (here / name / p.name).write_bytes(p.read_bytes())
        return here / name

    names = [p.name for p in Path(tiny).iterdir()]
    config, weights = sorted(names, key=lambda name: not name.endswith(".json"))
    (copy("no-weights") / weights).unlink()
    (copy("no-config") / config).unlink()
    (copy("not-json") / config).write_text("{")
    (copy("not-ours") / config).write_text("{}")
    (copy("half") / weights).write_bytes((Path(tiny) / weights).read_bytes()[:5000])
    Path("empty").mkdir()
    Path("file").touch()
    Path("stopped/checkpoints").mkdir(parents=True)
    cases = {
        "no-weights": "incomplete",
        "no-config":  "incomplete",
        "not-json":   "not JSON",
        "not-ours":   "not a stiv_nb pipeline",
        "half":       "damaged",
        "empty":      "incomplete",
        "file":       "file",
        "stopped":    "--resume",
    }
    for name, says in cases.items():
        refused("sample", RED, "--weights", name, "-o", "x.gif", says=says)
    refused("eval", "half", "--n", 4, says="damaged")


# Data

def test_data_make_look_check(here):
    fine("data", "make", "clips", "--n", 5)
    assert "5 clips, 40 frames, no problems" in fine("data", "check", "clips")
    assert Image.open(fine("data", "look", "clips").strip()).width > 100


@pytest.mark.parametrize("args, says", [
    (["make", "clips"],                    "exists"),
    (["make", "new", "--n", "0"],          "n=0"),
    (["look", "none"],                     "none"),
    (["look", "clips", "-o", "a.jpg"],     ".png"),
    (["look", "clips", "--n", "0"],        "n=0"),
    (["look", "clips", "--n-frames", "0"], "n_frames=0"),
    (["check", "none"],                    "none"),
])
def test_data_refuses(clips, args, says): refused("data", *args, says=says)


def test_folders_with_faults(clips, recipe):
    "`check` lists every fault and ends with 1; the commands that need the clips name the first one"
    good = (clips / "captions.jsonl").read_text()
    whole = (clips / "clips/0000.mp4").read_bytes()

    def faulty(says):
        code, text = stiv("data", "check", clips)
        assert code == 1, text
        assert says in text
        assert "Traceback" not in text
        refused("data", "look", clips, says=says)
        refused("train", recipe, "--data.source", clips, says=says)

    for data in (b"", b"not a video", whole[:len(whole)//2]):
        (clips / "clips/0000.mp4").write_bytes(data)
        faulty("0000.mp4")
        refused("eval", "--folder", clips, says="0000.mp4")
    (clips / "clips/0000.mp4").unlink()
    faulty("missing")
    (clips / "clips/0000.mp4").write_bytes(whole)
    pictures = [*(clips / "clips/0004").iterdir()]
    for p in pictures: p.rename(clips / p.name)
    faulty("has no frames")
    for p in pictures: (clips / p.name).rename(p)
    assert stiv("data", "check", clips)[0] == 0
    lines = {
        '{broken':                                "captions.jsonl:6",
        '{"file": "clips/0000.mp4"}':             "'caption'",
        '{"file": "../x.mp4", "caption": "a"}':   "inside the folder",
    }
    for line, says in lines.items():
        (clips / "captions.jsonl").write_text(good + line + "\n")
        faulty(says)
    assert not Path("runs").exists()


def test_oracle_on_a_folder(clips):
    text = fine("eval", "--folder", clips)
    assert "motion_smoothness" in text
    assert "clips/0003.webm" in text
    for p in (clips / "captions.jsonl", clips / "clips/0000.mp4"): p.unlink()
    assert "0001.mp4" in fine("eval", "--folder", clips / "clips")
    refused("eval", "--folder", "none", says="none")


def test_eval(tiny, here):
    text = fine("eval", tiny, "--n", 4, "--task", "ti2v", "--split", "held_out")
    assert "codec" in text
    assert "TI2V" in text
    refused("eval", tiny, "--split", "test", says="held_out")
    refused("eval", tiny, "--n", 4, "--steps", 0, says="steps=0")


def test_eval_by_a_guest_and_kept(clips, tiny, here):
    "Another process measures; the results file holds protocol, n and intervals"
    import torch
    from torch import nn

    class Net(nn.Module):
        def forward(self, x, rescale: bool = False, resize: bool = False,
                    return_features: bool = False):
            return x.mean((2, 3, 4))/255

    torch.jit.script(Net()).save("net.pt")
    asked = ["--suite", "fvd", "--real", clips, "--frames", 8, "--size", 32, "--model", "script",
             "--model-weights", "net.pt", "--out", "fvd.json"]
    fine("eval", clips, *asked)
    kept = json.loads(Path("fvd.json").read_text())
    found = kept["metrics"]["fvd"]
    assert abs(found["value"]) < 1e-6 <= found["high"]
    assert (kept["protocol"]["frames"], found["n"]) == (8, 5)
    assert found["name"].startswith("Fréchet distance in script-")
    Path("fvd.json").unlink()
    for options, says in [
            (["--env", "no/python"],           "there is no Python"),
            (["--env", "false"],               "left no answer"),
            (["--model-weights", clips],       "is a folder"),
            (["--model", "i3d"],               "name another environment with --env"),
            (["--real", "none"],               "none"),
            (["--world", "hard"],              "--world means nothing to --suite fvd"),
            (["--boot", 1],                    "boot=1"),
    ]:
        refused("eval", clips, *asked, *options, says=says)
        assert not Path("fvd.json").exists()


# Recipes and training

def test_recipe(recipe, monkeypatch):
    monkeypatch.setattr("stiv_nb.train.planner.gpu_hours", lambda *args: 1234.5)   # for the time
    lines = fine("recipe", "--list").splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    assert {"demo-stiv", "fig6c-stride-2", "t2v-512", "xxl", "1,234", "9.2B"} <= words
    assert "run.batch " in fine("recipe", "demo-stiv")
    assert fine("recipe", recipe, "--yaml").strip() == recipe.read_text().strip()
    assert "run.n_steps" in fine("recipe", recipe, "--against", "demo-stiv")


def test_faulty_recipes(recipe):
    text = recipe.read_text()
    cases = {
        "model: {":                                "not YAML",
        "a: 1":                                    "'model'",
        "model: {width: 3}":                       "model",
        text.replace("batch: 4", "batch: four"):   "run.batch",
        text + "\nrum: {a: 1}\n":                 "'run'",
    }
    for bad, says in cases.items():
        Path("bad.yaml").write_text(bad)
        refused("recipe", "bad.yaml", says=says)
        refused("train", "bad.yaml", says=says)


@pytest.mark.parametrize("field, says", [
    (["--run.bach", "3"],         "did you mean 'batch'"),
    (["--rum.batch", "3"],        "did you mean 'run'"),
    (["--run.batch", "many"],     "expected int"),
    (["--run.batch", "0"],        "at least 1"),
    (["--optim.lr=nan"],          "expected float"),
    (["--run.start", "nope"],     "no pipeline 'nope'"),
    (["--codec.folder", "nope"],  "no pipeline 'nope'"),
    (["--data.source", "nope"],   "nope"),
    (["--flow.times", "cosine"],  "cosine"),
    (["--resum"],                 "--resume"),
])
def test_train_refuses(recipe, field, says):
    refused("train", recipe, *field, says=says)
    assert not Path("runs").exists()


def names(folder): return {p.name for p in Path(folder).iterdir()}


def test_train_then_use(recipe):
    text = fine("train", recipe, "--run.sample_every", 3, "--run.n_steps", 4)
    assert text.splitlines()[-1] == "runs/small"
    parts = {"recipe.yaml", "metrics.jsonl", "checkpoints", "samples", "pipeline"}
    assert names("runs/small") == parts
    assert names("runs/small/samples") == {"000003.png", "000004.png"}
    fine("sample", RED, "--weights", "runs/small", "-o", "a.gif")
    # a run serves as the recipe of the next one, and as its start
    fine("train", "runs/small", "--run.start", "runs/small", "--folder", "runs/second")
    refused("train", recipe, says="--resume")
    # a finished run stays as it is
    assert fine("train", "runs/small", "--resume").splitlines()[-1] == "runs/small"
    refused("train", recipe, "--folder", "runs/small", "--resume", says="n_steps was 4, is 6")


def test_damaged_checkpoint(recipe):
    fine("train", recipe, "--run.n_steps", 2)
    shards = [*Path("runs/small/checkpoints").glob("*/*.distcp")]
    assert shards
    for shard in shards: shard.write_bytes(b"half")
    code, text = stiv("train", "runs/small", "--resume")
    assert code == 2
    check_line(text.splitlines()[-1], "can't be read")


def test_plan_and_progressive(recipe):
    assert "GPU-hours" in fine("plan", "stiv-256-xl", "--gpus", 8)
    refused("plan", "stiv-256-xl", "--gpu", "abacus", says="'abacus' is not one of b200")
    refused("plan", "stiv-256-xl", "--gpus", 0, says="n_gpus=0")
    refused("plan", "stiv-256-xxxl", says="did you mean")
    refused("progressive", "fig5", says="progression='fig5' is not one of fig4")


def test_rehearsal(recipe):
    assert "rehearsed on 1 x" in fine("train", recipe, "--dry_run")
    assert not Path("runs").exists()
    three = ["--parallel.accumulate", 3]
    refused("train", recipe, "--dry_run", *three, says="run.batch=4 does not divide")


def test_train_refuses_strange_choices(recipe):
    name = "parallel.activation_checkpointing"
    says = f"{name}='some' is not one of none, attention, full"
    refused("train", recipe, f"--{name}", "some", says=says)
    vae = ["--codec.vae", "nobody/nothing"]
    text = ["--codec.text", "nobody/nothing"]
    refused("train", recipe, *vae, says="codec.text=None")
    refused("train", recipe, *vae, *text, says="'nobody/nothing' can't be")


def test_train_on_clips_of_your_own(clips, recipe):
    short = ["--codec.vae_steps", 3, "--codec.text_steps", 3, "--model.channels", 4]
    fine("train", recipe, "--data.source", clips, "--codec.folder", "none", *short)
    fine("sample", "the square moves right", "--weights", "runs/small", "-o", "a.gif")


def test_toy_runs_take_the_shipped_codec(here):
    short = ["--run.n_steps", 1, "--run.batch", 2, "--optim.warmup", 0, "--data.n_clips", 8]
    fine("train", "demo-t2i", *short)
    fine("sample", "a red circle", "--weights", "runs/demo-t2i", "-o", "a.png", "--steps", 1)
    assert "T2V" in fine("eval", "runs/demo-t2i", "--n", 2, "--steps", 1)


def wait_for(done, process, seconds=60):
    "Returns once `done()` is true; fails if the process ends first"
    end = time.time() + seconds
    while not done():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(.05)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("sign, code, says", [
    (signal.SIGINT,  130, "stiv: stopped"),
    (signal.SIGTERM, 143, "stiv: stopped by SIGTERM"),
])
def test_a_stopped_demo_stops_all_its_processes(here, sign, code, says):
    def hear(): signal.signal(signal.SIGINT, signal.default_int_handler)
    p = subprocess.Popen([*STIV, "demo", "--quick", "--folder", "demo"], stderr=subprocess.PIPE,
                         text=True, start_new_session=True, preexec_fn=hear)
    for line in p.stderr:
        if "VAE" in line: break                              # the first bar is there
    if sign == signal.SIGINT: os.killpg(p.pid, sign)         # a terminal's Ctrl-C reaches all
    else: p.send_signal(sign)
    _, said = p.communicate(timeout=60)                      # ends when no process holds stderr
    assert p.returncode == code
    assert says in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_leaves_a_checkpoint(recipe):
    metrics = Path("runs/small/metrics.jsonl")
    saved = Path("runs/small/checkpoints")

    def lines(): return metrics.read_text().count("\n") if metrics.exists() else 0

    before = 0
    for resume in ([], ["--resume"]):
        p = subprocess.Popen(
            [*STIV, "train", str(recipe), "--run.n_steps", "100000", *resume],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: lines() > before + 1, p)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=30)
        assert p.returncode == 130, err
        check_line(err.splitlines()[-1], "stiv train runs/small --resume")
        assert "Traceback" not in err
        assert not [*saved.glob(".*")]                         # nothing half-written
        assert not Path("runs/small/pipeline").exists()
        assert int(checkpoints(saved)[-1].name[5:]) > 2*before   # one line every two steps
        before = lines()


# Full disks

@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("command, limit, says", [
    ("sample", 500,    "a.gif"),
    ("train",  20_000, "disk full"),
    ("data",   500,    "0000.mp4"),
])
def test_full_disk(tiny, recipe, command, limit, says):
    import resource
    args = {
        "sample": [RED, "--weights", tiny, "-o", "a.gif"],
        "train":  [recipe],
        "data":   ["make", "clips"],
    }

    def fill(): resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = shell(command, *args[command], preexec_fn=fill)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    check_line(done.stderr.splitlines()[-1], says)
    for left in ("a.gif", "*.distcp", "*.tmp", "captions.jsonl"):
        assert not [*Path(".").rglob(left)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout():
    with open("/dev/full", "w") as out:
        done = subprocess.run([*STIV, "--help"], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    check_line(done.stderr, "No space left")


# This machine

def test_doctor():
    text = fine("doctor")
    states = {line.split()[0] for line in text.splitlines() if line[0] != " "}
    assert states <= {"ok", "missing"}
    assert "[hub]" in text


def test_bench_and_demo_check_their_targets_first(here):
    refused("bench", "--json", "nowhere/b.json", says="create it first")
    Path("full").mkdir()
    Path("full/file").touch()
    refused("demo", "--folder", "full", says="--folder")


def test_demo_ends_with_a_table_a_pipeline_and_a_report(here, tiny, monkeypatch):
    "Everything that `stiv demo` does after its training, which takes minutes"
    def trained(seed, folder, **length):
        pipe = load(tiny, "cpu")
        verdicts = [evaluate(pipe, ShapeWorld(seed=seed), 2)]
        stages = {stage: RECIPES[f"demo-{stage.lower()}"] for stage in STAGES["demo"]}
        losses = [dict(step=1, loss=1., grad_norm=1., lr=.1, samples_per_s=1.)]
        return Demo({"STIV": pipe}, dict(VAE=[1.], **dict.fromkeys(stages, losses)), dict(STIV=1.),
                    verdicts=verdicts, recipes=[*stages.values()])
    monkeypatch.setattr("stiv_nb.apps.demo.run_demo", trained)
    monkeypatch.setattr("stiv_nb.cli.jobs._demo_ranks", lambda: 1)
    text = fine("demo", "--quick", "--seed", 3, "--folder", "made")
    assert "T2V   train" in text and max(map(len, text.splitlines()[:-1])) <= 80
    assert text.endswith((Path("made")/"report.html").resolve().as_uri())
    assert Path("made/report.html").stat().st_size > 10_000
    fine("sample", RED, "--weights", "made", "-o", "a.png")
    assert "T2V" in fine("eval", "made", "--n", 2)


def test_the_shipped_pipeline_answers_within_ten_seconds(here):
    start = time.time()
    done = shell("sample", RED, "-o", "a.mp4")
    assert done.returncode == 0, done.stderr
    assert time.time() - start < 10
    assert Path("a.mp4").stat().st_size > 1000


def test_what_commands_import_late_is_there():
    "A name that has moved would otherwise be missed when a command is typed"
    import ast
    import importlib

    import stiv_nb
    root = Path(stiv_nb.__file__).parent
    for path in sorted(root.glob("*/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom): continue
            if not (node.module or "").startswith("stiv_nb."): continue
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{path.name}: no {name.name} in {node.module}"


# Surroundings

@pytest.mark.skipif(os.name == "nt", reason="needs POSIX streams")
@pytest.mark.parametrize("args, shell_words, code, says", [
    ("--help",       ">&-",                0, ""),    # closed
    ("--help",       ">&- 2>&- <&-",       0, ""),
    ("--help",       "| true",             0, ""),    # nobody reads
    ("train --help", "2>&1 | head -1",     0, "usage"),
    ("nope",         "2>&-",               2, ""),
    ("nope",         "2>/dev/full",        2, ""),
    ("nope",         ">&-",                2, "stiv: unknown command 'nope'"),
    ("αβ",           "",                   2, r"stiv: unknown command '\u03b1\u03b2'"),
    ("train --help", ">/dev/null",         0, ""),    # with a character that ASCII lacks
])
def test_streams(args, shell_words, code, says):
    env = dict(os.environ, PYTHONIOENCODING="ascii", RANK="1")   # RANK from elsewhere: no torchrun
    line = f"{sys.executable} -m stiv_nb.cli.main {args} {shell_words}"
    pipes = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(pipes, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    shown = (done.stdout + done.stderr).strip()
    assert shown.startswith(says) and len(shown.splitlines()) == bool(says), shown


def test_a_caption_without_a_word_is_drawn_from_its_frame_or_costs_the_strips(clips, recipe):
    lines = (clips / "captions.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | dict(caption="")
    (clips / "captions.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    short = ["--run.n_steps", 1, "--optim.warmup", 0, "--data.n_clips", 4]
    text = fine("train", recipe, "--data.source", clips, *short)
    assert "no strips" not in text
    words_only = ["--condition.task", "t2v", "--run.name", "words"]
    text = fine("train", recipe, "--data.source", clips, *short, *words_only)
    assert "no strips at step 1: there is no prompt" in text
    for run in ("small", "words"):
        assert Path(f"runs/{run}/pipeline").is_dir()
