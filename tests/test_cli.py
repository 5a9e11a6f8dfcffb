"""The command line as users meet it: what it makes, and what it says to everything that can go wrong."""
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stiv_nb.cli.main import COMMANDS, stiv
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig, store_statistics
from stiv_nb.data.folder import make_samples
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.data.video import read_video
from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.stiv.pipeline import Defaults, Pipeline
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES

RED = "a red circle moving left"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    "A checkpoint folder with random weights"
    torch.manual_seed(0)
    model = DiT(ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both"))
    vae, text = TinyVAE(VAEConfig(width=16)), TinyText(TextConfig(words=VOCABULARY, width=16, depth=1))
    for p in model.parameters():
        if not p.any(): p.data.normal_(std=.2)
    store_statistics(vae.eval(), ShapeWorld().batch(range(16))[0])
    return Pipeline(model, vae, text, Defaults(steps=2, max_frames=12), device="cpu").save(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A current folder that is empty"
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(tiny, here):
    "A YAML file of a run that takes a second"
    r = change(RECIPES["demo-stiv"], run__n_steps=6, parallel__compile=False, run__batch=4, run__log_every=2, run__name="small", optim__warmup=1, optim__cooldown=0, data__n_clips=16, codec__folder=str(tiny))
    path = here / "small.yaml"
    path.write_text(to_yaml(replace(r, model=ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both"))))
    return path


@pytest.fixture
def clips(here):
    "Five clips: mp4, GIF, WebM and a folder of pictures"
    return make_samples(here / "clips", n=5)


def fine(*args):
    code, text = stiv(*args)
    assert code == 0, text
    return text


def refused(*args, says, code=2):
    "One clear line, the exit code, no traceback"
    got, text = stiv(*args)
    assert got == code, text
    check_line(text, says)


def check_line(text, says):
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("stiv: ") and len(lines[0]) < 520, text
    assert says in lines[0], lines[0]


def shell(*args, **kwargs):
    "`stiv` as a process"
    return subprocess.run([sys.executable, "-c", "import sys; from stiv_nb.cli.main import main; sys.exit(main())", *map(str, args)], capture_output=True, text=True, **kwargs)


# Help

def test_help_is_there_at_once():
    code = "import sys; from stiv_nb.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "False"
    for name in COMMANDS: assert f"  {name} " in done.stdout


def test_every_command_has_help_and_an_example():
    fine("--help")
    assert set(COMMANDS) == {"demo", "sample", "train", "recipe", "eval", "data make", "data look", "data check", "bench", "doctor", "plan", "progressive", "cache"}
    for name, (f, example) in COMMANDS.items():
        text = " ".join(fine(*name.split(), "--help").split())
        assert f.__doc__ in text and f"Example: {example}" in text and example.startswith(f"stiv {name}")
    assert "data check" in fine("data") and fine("--version")


@pytest.mark.parametrize("args, says", [
    (["smaple"], "did you mean 'sample'?"), (["data", "chek"], "did you mean 'data check'?"), (["xyzzy"], "there are "),
    (["sample", RED, "--stepz", "3"], "did you mean --steps?"), (["sample", RED, "--steps", "many"], "--steps can't be 'many'"), (["sample", RED, "--steps"], "--steps"),
    (["train"], "RECIPE"), (["recipe", "demo-t2x"], "did you mean 'demo-t2"), (["eval", "--n", "1.5"], "--n can't be '1.5'"), (["eval", "--n", "0"], "n=0 must be"), (["doctor", "now"], "now")])
def test_wrong_words(args, says): refused(*args, says=says)


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(COMMANDS, "doctor", (lambda: 1 + "", "stiv doctor"))
    with pytest.raises(TypeError): stiv("doctor")
    monkeypatch.setenv("STIV_TRACE", "1")
    with pytest.raises(ValueError): stiv("smaple")


# Sampling

@pytest.mark.parametrize("args, says", [
    (["a purple circle"], "'purple'"), (["a red cirkle"], "did you mean 'circle'?"), ([""], "the prompt is empty"), (["  "], "the prompt is empty"), ([], "say what to draw"),
    (["a circle " * 1111], "2222 words"), (["x" * 10_000], "not in the vocabulary"),
    ([RED, "--guidance", "nan"], "guidance=nan"), ([RED, "--guidance", "inf"], "guidance=inf"), ([RED, "--guidance", "-1"], "guidance=-1"), ([RED, "--guidance", "1e9"], "guidance="),
    ([RED, "--steps", "0"], "steps=0"), ([RED, "--steps", "100000"], "steps=100000"), ([RED, "--n-frames", "0"], "n_frames=0"), ([RED, "--n-frames", "99"], "1 to 12"),
    ([RED, "--size", "33"], "multiple of 8"), ([RED, "--size", "-8"], "size=-8"), ([RED, "--size", "24x33"], "multiple of 8"), ([RED, "--mode", "cfg"], "'cfg'"), ([RED, "--seed", "-1"], "seed=-1"),
    ([RED, "--image", "none.png"], "none.png"), ([RED, "--given", "0"], "I=FILE"), ([RED, "--given", "x=a.png"], "I=FILE"), ([RED, "--given", "9=a.png"], "frames 0 to 7"),
    ([RED, "--out", "nowhere/a.mp4"], "create it first"), ([RED, "--out", "a.avi"], "known are .mp4"), ([RED, "--out", "a"], "unknown format"),
    ([RED, "--weights", "nope"], "no pipeline 'nope'"), ([RED, "--weights", "./a/b"], "no pipeline"), ([RED, "--weights", ""], "no pipeline")])
def test_sample_refuses(tiny, here, args, says):
    refused("sample", *args, *([] if "--weights" in args else ["--weights", tiny]), *([] if "--out" in args else ["-o", "x.gif"]), says=says)
    assert not [*here.iterdir()]


def test_sample_writes_every_format_and_names_files(tiny, here):
    for suffix in ("mp4", "webm", "gif", "png"): fine("sample", RED, "--weights", tiny, "-o", f"a.{suffix}")
    assert read_video(here / "a.mp4")[0].shape[0] == 8 and Image.open(here / "a.png").width > 8*32
    for _ in range(2): fine("sample", *RED.split(), "--weights", tiny)                 # no quotes: one prompt, never overwritten
    fine("sample", RED, "a blue square", "--weights", tiny, "-o", "two.gif")
    fine("sample", RED, "--weights", tiny, "--n-frames", 1)
    names = {"a-red-circle-moving-left.mp4", "a-red-circle-moving-left-2.mp4", "two-1.gif", "two-2.gif", "a-red-circle-moving-left.png", "a.mp4", "a.webm", "a.gif", "a.png"}
    assert {p.name for p in here.iterdir()} == names


def test_the_seed_decides(tiny, here):
    for name, seed in (("a.gif", 1), ("b.gif", 1), ("c.gif", 2)): fine("sample", RED, "--weights", tiny, "-o", name, "--seed", seed)
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes() != Path("c.gif").read_bytes()


@pytest.mark.parametrize("mode, size", [("P", (40, 30)), ("RGBA", (32, 32)), ("LA", (9, 50)), ("I;16", (64, 64)), ("L", (1, 1)), ("1", (33, 31)), ("CMYK", (200, 10)), ("RGB", (500, 300))])
def test_any_picture_is_a_first_frame(tiny, here, mode, size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    name = "in.tiff" if mode in ("CMYK", "I;16") else "in.png"
    image.save(name)
    fine("sample", RED, "--weights", tiny, "--image", name, "--steps", 1, "-o", "out.png")
    fine("sample", RED, "--weights", tiny, "--given", f"0={name}", f"7={name}", "--steps", 1, "-o", "given.png")


def test_pictures_are_turned_upright(tiny, here):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 255                             # red at the left; EXIF says: turn clockwise, so red belongs on top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save("phone.png", exif=exif)
    fine("sample", RED, "--weights", tiny, "--image", "phone.png", "-o", "out.png")
    frame = np.array(Image.open("out.png"))[:, :96]
    assert (frame[2, :, 0] > 200).all() and (frame[-2, :, 0] < 50).all()


def test_what_is_no_picture(tiny, here):
    Path("text.png").write_text("not a picture")
    Path("empty.png").touch()
    Path("half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    Image.fromarray(np.zeros((8, 8), np.float32)).save("floats.tiff")
    for name in ("text.png", "empty.png", "half.png", ".", "floats.tiff"):
        refused("sample", RED, "--weights", tiny, "--image", name, "-o", "x.gif", says="" if name == "floats.tiff" else name)
    assert not Path("x.gif").exists()


# Checkpoints

def test_checkpoints_that_are_none(tiny, here):
    def copy(name):
        (here / name).mkdir()
        for p in Path(tiny).iterdir(): (here / name / p.name).write_bytes(p.read_bytes())
        return here / name
    config, weights = sorted((p.name for p in Path(tiny).iterdir()), key=lambda n: not n.endswith(".json"))
    (copy("no-weights") / weights).unlink()
    (copy("no-config") / config).unlink()
    (copy("not-json") / config).write_text("{")
    (copy("not-ours") / config).write_text("{}")
    (copy("half") / weights).write_bytes((Path(tiny) / weights).read_bytes()[:5000])
    Path("empty").mkdir()
    Path("file").touch()
    (here / "stopped" / "checkpoints").mkdir(parents=True)
    cases = {"no-weights": "incomplete", "no-config": "incomplete", "not-json": "not JSON", "not-ours": "not a stiv_nb pipeline", "half": "damaged", "empty": "incomplete", "file": "file", "stopped": "--resume"}
    for name, says in cases.items(): refused("sample", RED, "--weights", name, "-o", "x.gif", says=says)
    refused("eval", "half", "--n", 4, says="damaged")


# Data

def test_data_make_look_check(here):
    fine("data", "make", "clips", "--n", 5)
    assert "5 clips, 40 frames, no problems" in fine("data", "check", "clips")
    assert Image.open(fine("data", "look", "clips").strip()).width > 100
    refused("data", "make", "clips", says="exists")
    for bad, says in ((["make", "new", "--n", "0"], "n=0"), (["look", "none"], "none"), (["look", "clips", "-o", "a.jpg"], ".png"), (["look", "clips", "--n", "0"], "n=0"), (["look", "clips", "--n-frames", "0"], "n_frames=0"), (["check", "none"], "none")): refused("data", *bad, says=says)


def test_folders_with_faults(clips, recipe):
    "`check` lists every fault and ends with 1; the commands that need the clips name the first one"
    good = (clips / "captions.jsonl").read_text()
    whole = (clips / "clips/0000.mp4").read_bytes()

    def faulty(says):
        code, text = stiv("data", "check", clips)
        assert code == 1 and says in text and "Traceback" not in text, text
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
    for line, says in (("{broken", "captions.jsonl:6"), ('{"file": "clips/0000.mp4"}', "'caption'"), ('{"file": "../x.mp4", "caption": "a"}', "inside the folder")):
        (clips / "captions.jsonl").write_text(good + line + "\n")
        faulty(says)
    assert not Path("runs").exists()


def test_oracle_on_a_folder(clips):
    text = fine("eval", "--folder", clips)
    assert "motion_smoothness" in text and "clips/0003.webm" in text
    for p in (clips / "captions.jsonl", clips / "clips/0000.mp4"): p.unlink()
    assert "0001.mp4" in fine("eval", "--folder", clips / "clips")
    refused("eval", "--folder", "none", says="none")


def test_eval(tiny, here):
    text = fine("eval", tiny, "--n", 4, "--image", "--split", "held_out")
    assert "codec" in text and "TI2V" in text
    refused("eval", tiny, "--split", "test", says="held_out")
    refused("eval", tiny, "--n", 4, "--steps", 0, says="steps=0")


# Recipes and training

def test_recipe(recipe):
    assert set(RECIPES) <= set(fine("recipe", "--list").split())
    assert "run.batch " in fine("recipe", "demo-stiv") and fine("recipe", recipe, "--yaml").strip() == recipe.read_text().strip()
    assert "run.n_steps" in fine("recipe", recipe, "--against", "demo-stiv")
    for text, says in (("model: {", "not YAML"), ("a: 1", "'model'"), ("model: {width: 3}", "model"), (recipe.read_text().replace("batch: 4", "batch: four"), "run.batch"), (recipe.read_text() + "\nrum: {a: 1}\n", "'run'")):
        Path("bad.yaml").write_text(text)
        refused("recipe", "bad.yaml", says=says)
        refused("train", "bad.yaml", says=says)


@pytest.mark.parametrize("field, says", [(["--run.bach", "3"], "did you mean 'batch'"), (["--rum.batch", "3"], "did you mean 'run'"), (["--run.batch", "many"], "expected int"), (["--run.batch", "0"], "at least 1"), (["--optim.lr=nan"], "expected float"),
                                         (["--run.start", "nope"], "no pipeline 'nope'"), (["--codec.folder", "nope"], "no pipeline 'nope'"), (["--data.source", "nope"], "nope"), (["--flow.times", "cosine"], "cosine"), (["--resum"], "--resume")])
def test_train_refuses(recipe, field, says):
    refused("train", recipe, *field, says=says)
    assert not Path("runs").exists()


def test_train_then_use(recipe):
    text = fine("train", recipe, "--run.sample_every", 3, "--run.n_steps", 4)
    assert text.splitlines()[-1] == "runs/small"
    assert {p.name for p in Path("runs/small").iterdir()} == {"recipe.yaml", "metrics.jsonl", "checkpoints", "samples", "pipeline"}
    assert {p.name for p in Path("runs/small/samples").iterdir()} == {"000003.png", "000004.png"}
    fine("sample", RED, "--weights", "runs/small", "-o", "a.gif")
    fine("train", "runs/small", "--run.start", "runs/small", "--folder", "runs/second")   # a run is a recipe and a start
    refused("train", recipe, says="--resume")
    assert fine("train", "runs/small", "--resume").splitlines()[-1] == "runs/small"   # a run that is over stays as it is
    refused("train", recipe, "--folder", "runs/small", "--resume", says="n_steps was 4, is 6")
    for slices in Path("runs/small/checkpoints").glob("*/*.distcp"): slices.write_bytes(b"half")
    code, text = stiv("train", "runs/small", "--resume")
    assert code == 2
    check_line(text.splitlines()[-1], "can't be read")


def test_plan_rehearsal_and_pipeline(recipe):
    assert "GPU-hours" in fine("plan", "stiv-256-xl", "--gpus", 8)
    refused("plan", "stiv-256-xl", "--gpu", "abacus", says="'abacus' is not one of b200")
    refused("plan", "stiv-256-xl", "--gpus", 0, says="n_gpus=0")
    refused("plan", "stiv-256-xxxl", says="did you mean")
    assert "rehearsed on 1 x" in fine("train", recipe, "--dry_run") and not Path("runs").exists()
    refused("train", recipe, "--dry_run", "--parallel.accumulate", 3, says="run.batch=4 does not divide")
    refused("train", recipe, "--parallel.activation_checkpointing", "some", says="parallel.activation_checkpointing='some' is not one of none, attention, full")
    refused("progressive", "fig5", says="there is no pipeline 'fig5'")
    refused("train", recipe, "--codec.vae", "nobody/nothing", says="codec.text=None")
    refused("train", recipe, "--codec.vae", "nobody/nothing", "--codec.text", "nobody/nothing", says="could not be fetched from the Hub")


def test_train_on_clips_of_your_own(clips, recipe):
    fine("train", recipe, "--data.source", clips, "--codec.folder", "none", "--codec.vae_steps", 3, "--codec.text_steps", 3, "--model.channels", 4)
    fine("sample", "the square moves right", "--weights", "runs/small", "-o", "a.gif")


def test_toy_runs_take_the_shipped_codec(here):
    fine("train", "demo-t2i", "--run.n_steps", 1, "--optim.warmup", 0, "--run.batch", 2, "--data.n_clips", 8)
    fine("sample", "a red circle", "--weights", "runs/demo-t2i", "-o", "a.png", "--steps", 1)
    assert "T2V" in fine("eval", "runs/demo-t2i", "--n", 2, "--steps", 1)


def wait_for(done, process, seconds=60):
    end = time.time() + seconds
    while not done():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(.05)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_leaves_a_checkpoint(recipe):
    metrics, saved = Path("runs/small/metrics.jsonl"), Path("runs/small/checkpoints")
    steps, before = lambda: metrics.read_text().count("\n") if metrics.exists() else 0, 0
    for resume in ([], ["--resume"]):
        p = subprocess.Popen([sys.executable, "-c", "import sys; from stiv_nb.cli.main import main; sys.exit(main())", "train", str(recipe), "--run.n_steps", "100000", *resume], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: steps() > before + 1, p)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=30)
        assert p.returncode == 130, err
        check_line(err.splitlines()[-1], "stiv train runs/small --resume")
        assert "Traceback" not in err and not [*saved.glob(".*")] and not Path("runs/small/pipeline").exists()
        assert int(checkpoints(saved)[-1].name[5:]) > 2*before
        before = steps()


# Full disks

@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_full_disk(tiny, recipe):
    import resource

    def full(limit): return dict(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))

    for args, limit, says in ((["sample", RED, "--weights", tiny, "-o", "a.gif"], 500, "a.gif"), (["train", recipe], 20_000, "disk full"), (["data", "make", "clips"], 500, "0000.mp4")):
        done = shell(*args, **full(limit))
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        check_line(done.stderr.splitlines()[-1], says)
    assert not Path("a.gif").exists() and not [*Path("runs").rglob("*.distcp")] and not [*Path(".").rglob("*.tmp")] and not Path("clips/captions.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout():
    with open("/dev/full", "w") as out:
        done = subprocess.run([sys.executable, "-c", "import sys; from stiv_nb.cli.main import main; sys.exit(main())", "--help"], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    check_line(done.stderr, "No space left")


# This machine

def test_doctor():
    text = fine("doctor")
    assert {line.split()[0] for line in text.splitlines()} <= {"ok", "missing"} and "[hub]" in text


def test_bench_and_demo_check_their_targets_first(here):
    refused("bench", "--json", "nowhere/b.json", says="create it first")
    Path("full").mkdir()
    Path("full/file").touch()
    refused("demo", "--folder", "full", says="--folder")


def test_the_shipped_checkpoint_answers_within_ten_seconds(here):
    start = time.time()
    done = shell("sample", RED, "-o", "a.mp4")
    assert done.returncode == 0, done.stderr
    assert time.time() - start < 10 and Path("a.mp4").stat().st_size > 1000
