"""Checkpoints of strangers, requests of any kind: one line naming the folder, no memory spent"""
import json
import math
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

from stiv_nb.cli.main import stiv
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.data.video import Video
from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.stiv.pipeline import Defaults, Pipeline, load_pipeline
from stiv_nb.train.latents import encode_clips
from stiv_nb.train.recipe import change
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.setup import set_up
from stiv_nb.train.trainer import Trainer

RED = "a red circle moving left"
SMALL = ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both")


def tiny(**defaults):
    "A pipeline with random weights"
    torch.manual_seed(0)
    model = DiT(SMALL)
    for p in model.parameters(): p.data.normal_(std=.2)
    text = TinyText(TextConfig(words=VOCABULARY, width=16, depth=1))
    defaults = Defaults(steps=2, max_frames=12, **defaults)
    return Pipeline(model, TinyVAE(VAEConfig(width=16)), text, defaults, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The folder of a pipeline; every test leaves it as it was"
    return tiny().save(tmp_path_factory.mktemp("stranger")/"pipe")


@pytest.fixture(scope="module")
def right(folder):
    "Its config.json"
    return json.loads((folder/"config.json").read_text())


def check_refused(folder):
    "One line, which names the folder, of an error that the command line shows as a mistake"
    start = time.perf_counter()
    with pytest.raises((ValueError, FileNotFoundError)) as e: load_pipeline(folder, "cpu")
    assert str(folder) in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert time.perf_counter() - start < 10   # not for ever; a machine may be busy
    assert torch.is_grad_enabled()            # nothing stays switched off


# config.json

RAW = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"stiv_nb"',
    "number": b"5",
    "half": b'{"format": "stiv_nb"',
    "zero": b"\0",
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "deep": b'{"notes": ' + b"["*100_000,
    "5,000 digits": b'{"version": ' + b"9"*5000 + b"}",
}


@pytest.mark.parametrize("content", RAW.values(), ids=RAW)
def test_files_that_are_no_config(folder, right, content):
    (folder/"config.json").write_bytes(content)
    check_refused(folder)
    (folder/"config.json").write_text(json.dumps(right))


GONE = object()   # an entry that is missing
ODD = [None, "a", [], {}, True, 1.5, math.nan, math.inf, 0, -1, 1000, 10**9, 10**30, 10**400]
WRONG_KIND = [None, "a", [], {}, math.nan, math.inf]
PART = [GONE, None, "a", 3, [], [1], True]
TABLE = {   # entry of config.json -> values that no pipeline has there
    "format": [GONE, None, "other", 3, []],
    "version": [GONE, None, 1, 3, "2", [], 10**400],
    "notes": ["a", 3, [1]],
    "model": [*PART, {}],
    "vae": PART,
    "text": [*PART, {}],
    "defaults": PART,
    "objective": PART,
    "model.config": [None, 3, "Odd", [], {}],
    "model.positions": [None, "a", 3, []],
    "model.temporal": [None, "a", 3, []],
    "model.rope_frames": ["a", [], 0, -1, 1.5, 10**400],
    "model.foreign": [1],
    **{f"model.{name}": ODD for name in (
        "width", "depth", "heads", "channels", "text_width", "patch", "temporal_patch")},
    "model.unmasked_depth": [v for v in ODD if v != 2],
    "vae.channels": ODD,
    "vae.width": ODD,
    "vae.foreign": [1],
    "vae.repo": [None, 3, [], "", "a\0b"],
    "text.repo": [None, 3, [], "", {}],
    "text.words": [None, "a", {}, 3, [], [3], [None], [["a"]]],
    **{f"text.{name}": ODD for name in ("width", "depth", "heads", "max_words")},
    **{f"defaults.{name}": [*WRONG_KIND, True, 1.5, 0, -1, 10**9, 10**400]
       for name in ("size", "n_frames", "stride", "max_frames", "steps")},
    "defaults.fps": [*WRONG_KIND, 0, -1, 1e-9, 1e9, 10**400],
    "defaults.guidance": [*WRONG_KIND, -5, 1000],
    "defaults.guidance_image": [*WRONG_KIND, -5, 1000],
    "defaults.shift": [*WRONG_KIND, 0, -1, 1e9],
    "defaults.mode": [None, "a", 3, [], {}],
    "defaults.solver": [None, "a", 3, [], {}],
    **{f"defaults.{name}": [None, "a", 3, [], {}] for name in ("rule", "known")},
    **{f"defaults.{name}": [*WRONG_KIND, -1, 2, 10**400]
       for name in ("guide_from", "guide_until", "blur", "blur_until")},
    **{f"defaults.{name}": [*WRONG_KIND, 10**9, 10**400]
       for name in ("zero_steps", "apg_eta", "apg_longest", "apg_momentum")},
    "defaults.renorm": [None, "yes", 1, []],
    "defaults.micro": ["a", 3, [1], dict(speed=3), dict(height=-1), dict(height="a"),
                       dict(height=math.nan), dict(height=None), dict(height=10**400)],
    "defaults.foreign": [1],
    "objective.prediction": [None, "a", 3, []],
    "objective.path": [None, "a", 3, []],
    "objective.foreign": [1],
}


def changed(config, entry, value):
    "A config with another value at an entry such as model.width"
    part, _, name = entry.partition(".")
    if name: return config | {part: changed(config[part], name, value)}
    return {k: v for k, v in (config | {part: value}).items() if v is not GONE}


@pytest.mark.parametrize("entry", TABLE)
def test_entries_of_a_config(folder, right, entry):
    for value in TABLE[entry]:
        (folder/"config.json").write_text(json.dumps(changed(right, entry, value)))
        try: check_refused(folder)
        except BaseException as e: raise AssertionError(f"{entry} = {value!r:.50}") from e
    (folder/"config.json").write_text(json.dumps(right))


def test_the_folder_itself_is_fine(folder, right):
    (folder/"config.json").write_text(json.dumps(changed(right, "notes", GONE)))
    assert load_pipeline(folder, "cpu").notes == {}
    (folder/"config.json").write_text(json.dumps(changed(right, "defaults.micro", GONE)))
    assert load_pipeline(folder, "cpu").defaults.micro is None     # an older one
    (folder/"config.json").write_text(json.dumps(right))
    load_pipeline(folder, "cpu")


# Files

@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file(folder, name):
    path = folder/name
    kept = path.rename(folder.parent/name)
    for make in (os.mkfifo, os.mkdir, lambda p: os.symlink(p, p), lambda p: None):
        make(path)
        check_refused(folder)
        if path.is_dir(): path.rmdir()
        else: path.unlink(missing_ok=True)
    kept.rename(path)


def test_weights_of_another_kind(folder):
    path = folder/"model.safetensors"
    whole = path.read_bytes()
    weights = {k: w.clone() for k, w in load_file(path).items()}   # not a view of the file
    half = dict(list(weights.items())[:5])
    nan = weights["model.patch_in.weight"].clone().fill_(math.nan)
    for content in (b"", b"\0"*8, whole[:1000], whole[:-4], b"\xff"*100, b"\x80\x04N."):
        path.write_bytes(content)
        check_refused(folder)
    for other in ({}, half, weights | dict(evil=torch.ones(2)),
                  weights | {"model.patch_in.weight": nan}):
        save_file(other, path)
        check_refused(folder)
    path.write_bytes(whole)
    load_pipeline(folder, "cpu")


def in_memory(f):
    "Bytes of all parameters that were made in real memory while `f` ran"
    made = []
    def note(module, name, p): made.append(p.nbytes if p is not None and not p.is_meta else 0)
    hook = register_module_parameter_registration_hook(note)
    try: f()
    finally: hook.remove()
    return sum(made)


@pytest.mark.parametrize("entry", ["model.width", "text.width", "vae.width", "text.max_words"])
def test_a_config_alone_takes_no_memory(folder, right, entry):
    "A width of 12,000 once took 4.2 GB before the weights were looked at"
    (folder/"config.json").write_text(json.dumps(changed(right, entry, 12_000)))
    assert in_memory(lambda: check_refused(folder)) == 0
    (folder/"config.json").write_text(json.dumps(right))


def test_weights_are_held_once(folder):
    weights = (folder/"model.safetensors").stat().st_size
    assert .9*weights < in_memory(lambda: load_pipeline(folder, "cpu")) <= weights


# What the model is told

TOLD = torch.tensor([384., 640, 0, 10, 3, 8])   # of every training clip below


class Spy(DiT):
    "A model that remembers the micro-conditions it was last told"
    def forward(self, z_t, t, text, pooled, micro, *args):
        self.told = micro
        return super().forward(z_t, t, text, pooled, micro, *args)


def told(pipe, **ask):
    "The micro-conditions of a call, the same for all its clips and passes"
    pipe.model.__class__ = Spy
    pipe(RED, progress=False, steps=1, **ask)
    row, = pipe.model.told.unique(dim=0)
    return row.tolist()


def test_sampling_tells_what_training_has_told(tmp_path):
    parts = tiny()
    data = encode_clips(ShapeWorld(), parts.vae, parts.text, 8)
    data.micro = TOLD.expand(8, -1).clone()
    data.micro[0] = 7.                                             # one clip is unlike the others
    recipe = change(
        replace(RECIPES["demo-stiv"], model=SMALL), run__batch=4, run__n_steps=2, optim__warmup=1,
        optim__cooldown=0, run__start=None, data__stride=3, parallel__compile=False)
    trainer = Trainer(set_up(recipe, vae=parts.vae, text=parts.text, data=data, device="cpu"))
    heard = []
    trainer.model.register_forward_hook(lambda model, args, out: heard.append(args[4]))
    trainer.train_step()
    pipe = load_pipeline(trainer.pipeline().save(tmp_path/"pipe"), "cpu")
    assert told(pipe) == TOLD.tolist()
    assert TOLD.tolist() in heard[0].tolist()                      # one of those in training
    assert told(pipe, n_frames=1) == [384, 640, 0, 10, 3, 1]       # what a call chooses
    assert told(pipe, n_frames=4, stride=2, size=48) == [384, 640, 0, 10, 2, 4]
    assert told(pipe, micro=dict(height=720, width=1280)) == [720, 1280, 0, 10, 3, 8]


def test_a_pipeline_that_remembers_nothing_says_what_is_asked():
    assert told(tiny()) == [32, 32, 0, 0, 1, 8]
    assert told(tiny(), size=(24, 40), n_frames=4, stride=2) == [24, 40, 0, 0, 2, 4]


# Requests

@pytest.mark.parametrize("args, says", [
    ([RED, "--guidance", "-5"],                "guidance=-5.0 must be"),
    ([RED, "--guidance", "1000"],              "guidance=1000.0 must be"),
    ([RED, "--guidance-image", "-5"],          "guidance_image=-5.0 must be"),
    ([RED, "--rule", "best"],                  "rule='best' is not one of cfg"),
    ([RED, "--rule", "apg", "--mode", "sit"],  "use mode='jit'"),
    ([RED, "--guide-from", "2"],               "guide_from=2.0 must be"),
    ([RED, "--guide-until", "0"],              "mode='none' switches guidance off"),
    ([RED, "--blur", "1"],                     "blur=1.0 must be"),
    ([RED, "--guide", "nowhere"],              "there is no pipeline 'nowhere'"),
    ([RED, "--guide", "toy"],                  "the guide has another codec"),
    ([RED, "--seed", "-1"],                    "seed=-1 must be"),
    ([RED, "--seed", str(2**63)],              "seed=9223372036854775808 must be"),
    ([RED, "--seed", "9"*400],                 "seed=999"),
    ([RED, "--n-frames", "0"],                 "n_frames=0 must be"),
    ([RED, "--micro", "speed=3"],              "'speed' is not one of height"),
    ([RED, "--micro", "height=-1"],            "height=-1.0 must be"),
    ([RED, "--micro", "height=nan"],           "height=nan must be"),
    ([RED, "--micro", "height"],               "must be NAME=NUMBER"),
    ([RED, "--micro", "height=1", "height=2"], "--micro says height twice"),
    ([RED, "--given", "0=a.png", "0=b.png"],   "--given says 0 twice"),
    ([RED, "--given", "0=a", "--given", "7=b"], "--given is given twice"),
    ([RED, "--image", "a.png", "--given", "0=b.png"], "frame 0 is given twice"),
    (["a red \udc80 circle"],                  "half a character"),
    (["\x1b[31m"],                             "'31m' is not in the vocabulary"),
    (["\x00\x1b"],                             "the prompt is empty"),
])
def test_sample_refuses(folder, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    code, text = stiv("sample", *args, "--weights", folder)
    assert code == 2, text
    assert says in text
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert not [*tmp_path.iterdir()]


def test_every_name_that_is_printed_is_a_file(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "a textured background standing standing standing standing standing"   # 66 characters
    for _ in range(2):
        code, text = stiv("sample", RED, RED, f"{long} left", f"{long} right", "--weights", folder,
                          "--n-frames", 1)
        assert code == 0, text
        names = [line.split()[0] for line in text.splitlines()]
        assert len({*names}) == 4
        for name in names: assert (tmp_path/name).stat().st_size > 0
    assert len([*tmp_path.iterdir()]) == 8


def test_names_given_out_at_the_same_moment(tmp_path):
    videos = [Video(torch.full((1, 3, 8, 8), i, dtype=torch.uint8)) for i in range(8)]
    saved = [None]*8
    start = threading.Barrier(8)
    def save(i):
        start.wait()
        saved[i] = videos[i].save(tmp_path/"a.png", over=False)
    threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len({*saved}) == 8
    assert sorted(tmp_path.iterdir()) == sorted(saved)


def test_control_characters_in_a_prompt_change_nothing():
    pipe = tiny()
    plain = pipe(RED, progress=False, n_frames=1).frames
    assert torch.equal(pipe(f"\x1b{RED}\x00\x07", progress=False, n_frames=1).frames, plain)
