"""Bad input of every class into every place that takes input: one line, exit code 2, nothing left.

Each place is a command line with a HERE in it, or a file of a folder that a command reads. Each
class is a list of values. pytest tries a sample of the pairs, the same one every time;
`python tests/test_fuzz.py --full` tries all of them, `--only WORD` those whose names hold a word.
"""
import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import unicodedata
import zlib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from stiv_nb.cli.main import explain, stiv
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig, store_statistics
from stiv_nb.data.folder import VideoFolder, make_samples
from stiv_nb.data.pictures import read_image, read_video
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.stiv.pipeline import Defaults, Pipeline, as_call, load
from stiv_nb.train.planner import plan
from stiv_nb.train.recipe import Recipe, change, to_yaml
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.setup import open_recipe

HERE = "HERE"   # where the bad value goes
RED = "a red circle moving left"
SECONDS = 20    # for one case

# Classes of values for a command line

NUMBERS = {
    "zero": "0", "minus": "-1", "half": "0.5", "nan": "nan", "inf": "inf", "-inf": "-inf",
    "1e309": "1e309", "1e30": "1e30", "tiny": "1e-300", "2^31": str(2**31), "2^63": str(2**63),
    "2^200": str(2**200), "400 digits": "9"*400, "5000 digits": "9"*5000, "hex": "0x10",
    "text": "many", "none": "none", "true": "true", "blank": " ", "empty": "",
}
TEXTS = {
    "empty": "", "blank": "  ", "long": "a"*5000, "long words": "word "*1000,
    "long path": "a/"*2500, "long name": "b"*255, "control": "a\x1b[2J\x07\rb", "newline": "a\nb",
    "half a character": "a\udcff", "emoji": "👩‍🚀", "turned": "a\u202eb",
    "upwards": "../../outside", "root": "/", "option": "--", "dot": ".",
    "formula": r"$5 or \frac{", "drive": "C:x",
}


# Classes of files: each makes something at a path

def _deep(path): path.write_text("[" * 100_000)
def _fifo(path): os.mkfifo(path)
def _loop(path): path.symlink_to(path)
def _folder(path): path.mkdir()
def _huge(path):
    with open(path, "wb") as f: f.truncate(10**11)   # without a block on the disk
def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)                            # a socket's path is short
    try: socket.socket(socket.AF_UNIX).bind(path.name)
    finally: os.chdir(here)


FILES = {
    "missing": lambda path: None,
    "folder": _folder,
    "pipe": _fifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null device": lambda path: path.symlink_to("/dev/null"),
    "socket": _socket,
    "link in a circle": _loop,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "empty file": lambda path: path.touch(),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "not UTF-8": lambda path: path.write_bytes("größe: ä".encode("latin-1")),
    "one word": lambda path: path.write_text("word"),
    "huge": _huge,
    "deep": _deep,
}

# Classes of values inside JSON and YAML

VALUES = {
    "null": None, "true": True, "minus": -1, "half": .5, "zero": 0, "text": "many", "empty": "",
    "list": [1, 2], "empty list": [], "object": {"a": 1}, "empty object": {}, "nan": float("nan"),
    "inf": float("inf"), "1e300": 1e300, "2^31": 2**31, "2^63": 2**63, "2^200": 2**200,
    "4000 digits": 10**4000, "control": "a\x1b[2J\x07", "long": "a"*5000, "upwards": "../../x",
    "half a character": "a\udcff", "deep": [[[[[[[[[[[[1]]]]]]]]]]]],
}
YAML = {
    "number": "3", "text": "word", "null": "", "list": "- 1\n- 2", "object": "{a: 1}",
    "two documents": "a: 1\n---\nb: 2", "tab": "\tmodel: 1", "brackets": "["*10_000,
    "braces": "{a: "*10_000, "dashes": "- "*10_000, "unclosed": "model: {", "date": "2020-13-45",
    "code": "model: !!python/object/apply:os.system ['echo ran > ran']",
    "aliases": "a: &a [1,1]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\nmodel: *c",
    "merge": "a: &a {width: 1}\nmodel:\n  <<: *a", "zero byte": "a: \0",
    "binary": "model: !!binary x",
    "set": "model: !!set {a, b}", "keys": "? [a, b]\n: c",
    "number keys": "1: {2: 3}\nmodel: {4: 5}",
    "huge number": "model: {width: " + "9"*5000 + "}", "hex": "model: {width: 0x" + "f"*4000 + "}",
    "base 60": "model: {width: " + "1:1"*1300 + "}", "long": "#" * 2_000_000,
    "twice": "model: {}\nmodel: {}",
    "no model": "run: {batch: 1}", "empty model": "model: {}", "class": "model: {config: [1]}",
    "dunder": "model: {known: {}, __class__: 1, start_may_change: []}",
}
LINES = {   # of JSON
    "number": "3", "null": "null", "list": "[]", "text": '"a"', "empty": "", "object": "{}",
    "brackets": "[" * 100_000, "huge number": '{"step": ' + "9"*5000 + "}", "cut": '{"a": ',
    "nan": "NaN", "half a character": '"\\ud800"', "twice": '{"a": 1, "a": 2}',
}

# Places in a command line: kind of value, words of the command

SMALL = "small.yaml"
SAMPLE = ["sample", RED, "--weights", "tiny", "-o", "x.gif"]
TRAIN = ["train", SMALL, "--run.n_steps", "1", "--optim.warmup", "0", "--folder", "out"]
BENCH = ["bench", "--train", SMALL, "--device", "cpu"]
ENGINE = ["engine", "run", "clips", "--out", "cut", "--workers", "0", "--recipe", SMALL,
          "--filters"]
PRESET = ["data", "presets", "openvid-1m"]
PLACES = [
    ("text",   [HERE]),
    ("text",   ["data", HERE]),
    ("text",   ["sample", HERE, "--weights", "tiny", "-o", "x.gif"]),
    ("number", [*SAMPLE, "--steps", HERE]),
    ("number", [*SAMPLE, "--seed", HERE]),
    ("number", [*SAMPLE, "--n-frames", HERE]),
    ("number", [*SAMPLE, "--size", HERE]),
    ("number", [*SAMPLE, "--size", f"{HERE}x32"]),
    ("number", [*SAMPLE, "--guidance", HERE]),
    ("number", [*SAMPLE, "--mode", "sit", "--guidance-image", HERE]),
    ("text",   [*SAMPLE, "--negative", HERE]),
    ("number", [*SAMPLE, "--batch", HERE]),
    ("text",   ["sample", "--prompts", HERE, "--weights", "tiny", "-o", "drawn"]),
    ("file",   ["sample", "--prompts", HERE, "--weights", "tiny", "-o", "drawn"]),
    ("text",   ["sample", "--like", HERE, "--weights", "tiny", "-o", "x.gif"]),
    ("file",   ["sample", "--like", HERE, "--weights", "tiny", "-o", "x.gif"]),
    ("text",   [*SAMPLE, "--mode", HERE]),
    ("text",   [*SAMPLE, "--solver", HERE]),
    ("text",   [*SAMPLE, "--image", HERE]),
    ("file",   [*SAMPLE, "--image", HERE]),
    ("file",   [*SAMPLE, "--given", f"0={HERE}"]),
    ("number", [*SAMPLE, "--given", f"{HERE}=picture.png"]),
    ("text",   ["sample", RED, "--weights", HERE, "-o", "x.gif"]),
    ("file",   ["sample", RED, "--weights", HERE, "-o", "x.gif"]),
    ("text",   ["sample", RED, "--weights", "tiny", "-o", HERE]),
    ("target", ["sample", RED, "--weights", "tiny", "-o", f"{HERE}.gif"]),
    ("number", ["eval", "tiny", "--n", HERE]),
    ("number", ["eval", "tiny", "--n", "2", "--seed", HERE]),
    ("number", ["eval", "tiny", "--n", "2", "--steps", HERE]),
    ("number", ["eval", "tiny", "--n", "2", "--guidance", HERE]),
    ("text",   ["eval", "tiny", "--split", HERE]),
    ("text",   ["eval", HERE, "--n", "2"]),
    ("file",   ["eval", HERE, "--n", "2"]),
    ("file",   ["eval", "--folder", HERE]),
    ("text",   ["eval", "--folder", HERE]),
    ("text",   ["eval", "clips", "--suite", HERE]),
    ("file",   ["eval", "clips", "--suite", "fvd", "--real", HERE]),
    ("number", ["eval", "clips", "--suite", "fvd", "--real", "clips", "--frames", HERE]),
    ("number", ["eval", "clips", "--suite", "pairs", "--real", "clips", "--size", HERE]),
    ("file",   ["eval", "clips", "--suite", "fvd", "--real", "clips", "--model-weights", HERE]),
    ("file",   ["eval", "clips", "--suite", "fvd", "--real", "clips", "--env", HERE]),
    ("file",   ["eval", "clips", "--suite", "clip", "--frames", "8", "--clip", HERE]),
    ("file",   ["eval", "clips", "--suite", "vbench", "--info", HERE]),
    ("file",   ["eval", "clips", "--suite", "vbench", "--results", HERE]),
    ("target", ["eval", "--folder", "clips", "--out", f"{HERE}.json"]),
    ("text",   ["recipe", HERE]),
    ("file",   ["recipe", HERE]),
    ("file",   ["recipe", "demo-stiv", "--against", HERE]),
    ("text",   ["plan", HERE]),
    ("file",   ["plan", HERE]),
    ("text",   ["plan", SMALL, "--gpu", HERE]),
    ("number", ["plan", SMALL, "--gpus", HERE]),
    ("number", ["plan", SMALL, "--mfu", HERE]),
    ("text",   ["plan", SMALL, f"--run.{HERE}", "1"]),
    ("text",   ["plan", SMALL, f"--{HERE}.batch", "1"]),
    ("text",   ["plan", SMALL, "--__class__.x", HERE]),
    ("text",   ["train", HERE]),
    ("file",   ["train", HERE]),
    ("target", ["train", SMALL, "--folder", HERE]),
    ("text",   ["train", SMALL, "--run.name", HERE]),
    ("text",   ["train", SMALL, "--dry_run", "--gpu", HERE]),
    ("file",   [*TRAIN, "--data.source", HERE]),
    ("text",   [*TRAIN, "--data.source", HERE]),
    ("text",   [*TRAIN, "--data.source", f"stream:{HERE}"]),
    ("file",   [*TRAIN, "--data.source", f"stream:{HERE}.tar"]),
    ("file",   [*TRAIN, "--data.cache", HERE]),
    ("file",   [*TRAIN, "--codec.folder", HERE]),
    ("file",   [*TRAIN, "--run.start", HERE]),
    ("file",   [*TRAIN, "--run.start_temporal", HERE]),
    ("text",   [*TRAIN, "--run.start", HERE]),
    ("text",   [*TRAIN, "--data.buckets", HERE]),
    ("number", [*TRAIN, "--data.source", "clips", "--data.n_val", HERE]),
    ("text",   ["progressive", HERE]),
    ("target", ["progressive", "fig4", "--run.batch", "0", "--folder", HERE]),
    ("number", ["cache", SMALL, "--out", "new", "--shard", HERE]),
    ("file",   ["cache", HERE, "--out", "new"]),
    ("file",   ["cache", SMALL, "--data.source", HERE, "--out", "new"]),
    ("target", ["cache", SMALL, "--out", HERE]),
    ("number", ["data", "make", "new", "--n", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--seed", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--size", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--n-frames", HERE]),
    ("target", ["data", "make", HERE, "--n", "1"]),
    ("text",   ["data", "make", HERE, "--n", "0"]),
    ("text",   ["data", "presets", HERE]),
    ("file",   [*PRESET, "--table", HERE, "--clips", "clips", "-o", "new"]),
    ("file",   [*PRESET, "--table", "table.csv", "--clips", HERE, "-o", "new"]),
    ("text",   [*PRESET, "--table", "table.csv", "--clips", HERE, "-o", "new"]),
    ("target", [*PRESET, "--table", "table.csv", "--clips", "clips", "-o", HERE]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--n", HERE]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--n-frames", HERE]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--stride", HERE]),
    ("target", ["data", "look", "clips", "-o", f"{HERE}.png"]),
    ("file",   ["data", "look", HERE]),
    ("file",   ["data", "check", HERE]),
    ("text",   ["data", "check", HERE]),
    ("number", ["data", "check", "clips", "--n-frames", HERE]),
    ("number", ["data", "check", "clips", "--stride", HERE]),
    ("file",   ["engine", "run", HERE, "--out", "new", "--workers", "0"]),
    ("text",   ["engine", "run", HERE, "--out", "new", "--workers", "0"]),
    ("target", ["engine", "run", "clips", "--out", HERE, "--workers", "0"]),
    ("number", [*ENGINE, "all", "--side", HERE]),
    ("number", [*ENGINE, "all", "--side", "32", "--workers", HERE]),
    ("text",   [*ENGINE, HERE]),
    ("file",   [*ENGINE, f"{HERE}.yaml"]),
    ("text",   [*ENGINE, "all", "--cuts", HERE]),
    ("file",   [*ENGINE, "all", "--judge", HERE]),
    ("text",   [*ENGINE, "all", "--model", "m", "--captions", HERE]),
    ("file",   ["engine", "run", "clips", "--out", "new", "--recipe", HERE]),
    ("file",   ["engine", "look", HERE]),
    ("target", ["engine", "look", "cut", "-o", f"{HERE}.html"]),
    ("target", ["bench", "--train", "nope", "--rows", f"{HERE}.jsonl"]),
    ("text",   ["bench", "--json", HERE]),
    ("text",   ["bench", "--device", "cpu", "--train", HERE]),
    ("number", [*BENCH, "--depth", "9", "--batch", HERE]),
    ("number", [*BENCH, "--batch", "99999999", "--depth", HERE]),
    ("number", ["bench", "--train", "nope", "--seconds", HERE]),
    ("text",   ["bench", "--device", HERE]),
    ("number", ["demo", "--folder", "clips", "--seed", HERE]),
    ("text",   ["ablate", HERE]),
    ("text",   ["ablate", "image-dropout", f"--run.{HERE}", "1"]),
    ("number", ["ablate", "image-dropout", "--limit", HERE]),
    ("number", ["ablate", "image-dropout", "--seeds", HERE]),
    ("number", ["ablate", "image-dropout", "--captions", HERE]),
    ("number", ["ablate", "image-dropout", "--workers", HERE]),
    ("target", ["ablate", "image-dropout", "--start-folder", "clips", "--folder", HERE]),
    ("text",   ["compare", HERE]),
    ("file",   ["compare", HERE]),
    ("text",   ["compare", "clips", "--base", HERE]),
    ("text",   ["doctor", HERE]),
]

# Files that a command reads in a folder: file, how it is changed, words of the command

INSIDE = [
    ("tiny/config.json",       "json",  SAMPLE),
    ("tiny/model.safetensors", "cut",   SAMPLE),
    ("prompts.jsonl", "lines", ["sample", "--prompts", "prompts.jsonl", "--weights", "tiny"]),
    ("clips/captions.jsonl",   "lines", ["data", "check", "clips"]),
    ("clips/captions.jsonl",   "lines", ["data", "look", "clips", "-o", "look.png"]),
    ("clips/captions.jsonl",   "lines", ["eval", "--folder", "clips"]),
    ("info.json",              "lines", ["eval", "clips", "--suite", "vbench", "--info",
                                         "info.json"]),
    ("found/a_eval_results.json", "lines", ["eval", "clips", "--suite", "vbench", "--results",
                                            "found"]),
    ("clips/captions.jsonl",   "lines", [*TRAIN, "--data.source", "clips"]),
    ("clips/clips/0000.mp4",   "cut",   ["data", "check", "clips"]),
    ("clips/clips/0000.mp4",   "cut",   ["data", "look", "clips", "-o", "look.png"]),
    ("clips/clips/0000.mp4",   "cut",   ["eval", "--folder", "clips"]),
    ("clips/clips/0000.mp4",   "cut",   [*TRAIN, "--data.source", "clips"]),
    ("clips/clips/0000.mp4",   "cut",   [*TRAIN, "--data.source", "clips", "--data.n_frames", "6",
                                         "--data.encode", "live", "--run.batch", "4"]),
    ("cut/engine.json",        "json",  ["engine", "look", "cut", "-o", "look.html"]),
    ("cut/rows.jsonl",         "lines", ["engine", "look", "cut", "-o", "look.html"]),
    ("cut/measured.jsonl",     "lines", [*ENGINE, "all"]),
    ("table.csv",              "cut",   [*PRESET, "--table", "table.csv", "--clips", "clips",
                                         "-o", "new"]),
    ("done/recipe.yaml",       "yaml",  ["train", "done", "--resume"]),
    ("done/metrics.jsonl",     "lines", ["train", "done", "--resume"]),
    ("done/checkpoints/step-00000001/notes.json", "json", ["train", "done", "--resume"]),
    ("done/checkpoints/step-00000001/.metadata",  "cut",  ["train", "done", "--resume"]),
    ("latents/cache.json",     "json",  [*TRAIN, "--data.cache", "latents"]),
]
GONE = object()   # an entry that is missing
KEYS = {          # entries of JSON files that are changed
    "config.json": ["format", "model", "model.width", "model.depth", "vae", "vae.channels", "text",
                    "text.words", "defaults", "defaults.steps", "defaults.fps", "defaults.size",
                    "objective", "notes"],
    "prompts.jsonl": ["prompt", "negative", "seed", "image"],
    "captions.jsonl": ["file", "caption"],
    "metrics.jsonl": ["step", "loss"],
    "notes.json": ["step", "sums", "norm_mean", "recipe"],
    "info.json": [],
    "a_eval_results.json": ["scene"],
    "engine.json": ["folder", "facts", "bounds", "filters"],
    "rows.jsonl": ["file", "start", "stop", "flow", "refused", "copy_of"],
    "measured.jsonl": ["file", "stamp", "rows", "skipped"],
    "cache.json": ["shape", "text_width", "n_clips", "shard"],
}
KEYS = {file: [tuple(key.split(".")) for key in keys] for file, keys in KEYS.items()}


# The room in which all cases happen

def make_room(folder):
    "A folder with a pipeline, a recipe, clips, a run and a picture; the current folder from now on"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.manual_seed(0)
    shape = ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both")
    model, vae = DiT(shape), TinyVAE(VAEConfig(width=16)).eval()
    text = TinyText(TextConfig(words=VOCABULARY, width=16, depth=1))
    store_statistics(vae, ShapeWorld().batch(range(16))[0])
    pipe = Pipeline(model, vae, text, Defaults(steps=2, max_frames=12), device="cpu")
    pipe.save(folder/"tiny")
    small = change(
        replace(RECIPES["demo-stiv"], model=shape), run__name="small", run__n_steps=1,
        run__batch=2, optim__warmup=0, optim__cooldown=0, data__n_clips=4, codec__folder="tiny",
        parallel__compile=False, parallel__precision="fp32")
    (folder/SMALL).write_text(to_yaml(small))
    make_samples(folder/"clips", n=4)
    (folder/"table.csv").write_text("video,caption\n0000.mp4,a\n")
    Image.new("RGB", (8, 8)).save(folder/"picture.png")
    line = dict(prompt=RED, negative="blue", seed=3, image="picture.png")
    (folder/"prompts.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (folder/"info.json").write_text(json.dumps([dict(prompt_en=RED, dimension=["scene"])]))
    (folder/"found").mkdir()
    scored = [.5, [dict(video_path="a-0.mp4", video_results=.5)]]
    (folder/"found/a_eval_results.json").write_text(json.dumps(dict(scene=scored)))
    for words in (["train", SMALL, "--folder", "done"], ["cache", SMALL, "--out", "latents"],
                  [*ENGINE, "all"]):
        code, said = stiv(*words)
        assert code == 0, said


def seen(folder):
    "Names of everything in a folder, sizes and times of files; links are not followed"
    out = {}
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        facts = (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else ()
        out[str(path.relative_to(folder))] = facts   # a folder's time changes with a lock in it
    return out


class Late(BaseException):
    "Not an error that a command could explain"


@contextlib.contextmanager
def limited(seconds):
    "Raises `Late` in a block that takes longer"
    def late(*_): raise Late(f"has not ended within {seconds} s")
    before, left = signal.signal(signal.SIGALRM, late), signal.alarm(seconds)
    try: yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)


def fault(args, folder, wrong=False):
    "What is amiss with the answer to a command line; '' if nothing. `wrong`: may not be accepted"
    before = seen(folder)
    try:
        with limited(SECONDS): code, text = stiv(*args)
    except BaseException as e: return f"{type(e).__name__}: {str(e)[:200]}"
    if code not in (0, 1, 2): return f"exit code {code}"
    if code == 0: return f"accepted: {text[:200]!r}" if wrong else ""
    strange = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r"]
    if strange: return f"control characters {strange[:3]}"
    if code == 1: return ""
    lines = [line for line in text.split("\n") if not line.startswith("\r")]   # without bars
    if len(lines) != 1: return f"{len(lines)} lines: {text[:300]!r}"
    text = lines[0]
    if not text.startswith("stiv: ") or len(text) > 600: return f"says {text[:200]!r}"
    after = seen(folder)
    left = [k for k in after if after[k] != before.get(k)]
    return f"leaves {left[:4]}, {text[:200]}" if left else ""


# Cases: name -> how it is tried in a room

NEVER = {   # classes that no number, no field and no file can be
    "nan", "inf", "-inf", "1e309", "2^63", "2^200", "400 digits", "5000 digits", "4000 digits",
    "list", "empty list", "object", "empty object", "long", "long words", "long path", "control",
    "newline", "half a character", "turned", "deep", "many", *FILES}


def put(words, value): return [word.replace(HERE, value) for word in words]


def case(words, label, value, kind):
    "A value in a command line; a file is made first"
    def tried(room):
        if kind not in ("file", "target"):
            return fault(put(words, value), room, kind == "number" and label in NEVER)
        place = next(word for word in words if HERE in word)
        made = place.replace(HERE, "made").split("=")[-1].removeprefix("stream:")
        value(room/made)
        return fault(put(words, "made"), room, kind == "file")
    return tried


def in_file(words, file, data, wrong=False):
    "A file with other contents, from those that it has"
    def tried(room):
        path = room/file
        path.write_bytes(data(path.read_bytes() if path.exists() else b""))
        return fault(words, room, wrong) or ("code ran" if (room/"ran").exists() else "")
    return tried


def in_place(words, file, make, wrong):
    "Something else in the place of a file"
    def tried(room):
        (room/file).unlink()
        make(room/file)
        return fault(words, room, wrong)
    return tried


def with_field(part, name, value):
    "What makes of a recipe one with another field"
    def data(text):
        parts = yaml.safe_load(text)
        parts[part][name] = value
        return yaml.safe_dump(parts).encode()
    return data


def with_key(keys, value, lines):
    "What makes of a JSON file one with another entry; of JSON lines, in the first"
    def data(text):
        text, *rest = text.split(b"\n") if lines else [text]
        found = inner = json.loads(text)
        for key in keys[:-1]: inner = inner[key]
        if value is GONE: del inner[keys[-1]]
        else: inner[keys[-1]] = value
        return b"\n".join([json.dumps(found).encode(), *rest])
    return data


def of_places():
    "A value of each class in each place of a command line"
    for kind, words in PLACES:
        values = dict(number=NUMBERS, text=TEXTS).get(kind, FILES)
        for label, value in values.items():
            if kind == "target" and label == "missing": continue
            yield f"{' '.join(words)}: {label}", case(words, label, value, kind)


def of_fields():
    "A value of each class in each field of a recipe, typed and in YAML"
    for part in fields(Recipe):
        for field in fields(part.type):
            name = f"{part.name}.{field.name}"
            kind = "text" if field.type in (str, str | None) else "number"
            words = ["plan", SMALL, f"--{name}={HERE}"]
            for label, value in (TEXTS if kind == "text" else NUMBERS).items():
                yield f"plan --{name}: {label}", case(words, label, value, kind)
            for label, value in VALUES.items():
                data = with_field(part.name, field.name, value)
                tried = in_file(["recipe", SMALL], SMALL, data, label in NEVER)
                yield f"{name} in YAML: {label}", tried


def of_files():
    "Other contents of each file that a command reads"
    def text(value): return lambda whole: value.encode()
    for label, value in YAML.items():
        for words in (["recipe", SMALL], ["train", SMALL], ["cache", SMALL, "--out", "new"]):
            yield f"{words[0]} YAML: {label}", in_file(words, SMALL, text(value), True)
    for file, kind, words in INSIDE:
        place = f"{file} for {' '.join(words[:2])}"
        for label, make in FILES.items():
            wrong = file != "done/metrics.jsonl"   # may be missing, or cut off in its first line
            yield f"{place}: {label}", in_place(words, file, make, wrong)
        if kind == "yaml":
            for label, value in YAML.items():
                yield f"{place}: {label}", in_file(words, file, text(value), True)
        if kind == "cut":
            for share in (.01, .3, .9):
                def cut(whole, share=share): return whole[:int(len(whole)*share)]
                yield f"{place}: first {share}", in_file(words, file, cut, True)
            def flipped(whole): return bytes(b ^ 255 for b in whole[:99]) + whole[99:]
            yield f"{place}: flipped", in_file(words, file, flipped, True)
        if kind not in ("json", "lines"): continue
        for label, value in LINES.items():
            right = "empty", "text" if file == "prompts.jsonl" else ""   # "a" is a prompt, too
            tried = in_file(words, file, text(value + "\n"), label not in right)
            yield f"{place}: {label}", tried
        for keys in KEYS[Path(file).name]:
            for label, value in (VALUES | {"gone": GONE}).items():
                data = with_key(keys, value, kind == "lines")
                yield f"{place}, {'.'.join(keys)}: {label}", in_file(words, file, data)


PATHS = ("load", "open_recipe", "VideoFolder", "read_video")


def of_functions():
    "A value of each class for each argument of the functions that a notebook calls"
    @functools.cache
    def toy(): return load("tiny", "cpu")
    tiny = RECIPES["demo-stiv"]
    calls = {
        "pipe prompt": lambda value: toy()(value, progress=False),
        "pipe image": lambda value: toy()(RED, image=value, progress=False),
        "pipe given": lambda value: toy()(RED, given={0: value}, progress=False),
        "load": lambda value: load(value, "cpu"),
        "open_recipe": open_recipe,
        "VideoFolder": VideoFolder,
        "read_image": read_image,
        "read_video": read_video,
        "plan gpu": lambda value: plan(tiny, value),
    }
    for name in ("n_frames", "size", "stride", "guidance", "mode", "steps", "seed", "solver",
                 "negative", "slot"):
        def call(value, name=name): toy()(RED, progress=False, **{name: value})
        calls[f"pipe {name}"] = call
    @functools.cache
    def made(): return toy()(RED, progress=False).made
    for name in ("prompt", "negative", "seed", "slot", "n_frames", "size", "stride", "given",
                 "micro", "weights", "guide", "mode", "steps", "blur"):
        def call(value, name=name): toy()(**as_call(made() | {name: value}), progress=False)
        calls[f"made {name}"] = call
    for name in ("n_gpus", "mfu"):
        calls[f"plan {name}"] = lambda value, name=name: plan(tiny, **{name: value})
    for name in ("size", "n_frames", "stride", "seed", "length", "n_objects"):
        calls[f"ShapeWorld {name}"] = lambda value, name=name: ShapeWorld(**{name: value})
    for label, value in VALUES.items():
        if label == "null": continue
        for name, call in calls.items():
            if name in PATHS and not isinstance(value, str): continue   # Python's own TypeError
            yield f"{name} in Python: {label}", answer(call, value)


def answer(call, value):
    "A call that has to work, or to fail with an error that the command line could explain"
    def tried(room):
        try:
            with limited(SECONDS): call(value)
        except Exception as e:
            ending = explain(e)
            if ending is None: return f"{type(e).__name__}: {str(e)[:200]}"
            if len(ending.line) > 600: return f"a line of {len(ending.line)} characters"
        except Late as e: return str(e)
        return ""
    return tried


def cases():
    "All of them: name, function (room) -> what is amiss"
    yield from of_functions()
    yield from of_places()
    yield from of_fields()
    yield from of_files()


def attempt(tried, room, whole):
    "What is amiss in a case, tried in a fresh room"
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree(whole, room)
    os.chdir(room)
    return tried(room)


# A sample for pytest, and all of them by command

EVERY = 60   # one case in so many is tried by pytest


def sample():
    "The same cases every time"
    for name, tried in cases():
        if zlib.crc32(name.encode()) % EVERY == 0: yield pytest.param(tried, id=name)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    "A room for the cases, and a whole one to make it from"
    folder, before = tmp_path_factory.mktemp("fuzz"), os.getcwd()
    make_room(folder/"whole")
    yield folder/"room", folder/"whole"
    os.chdir(before)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes, devices and links")
@pytest.mark.parametrize("tried", list(sample()))
def test_bad_input(rooms, tried): assert attempt(tried, *rooms) == ""


def main(word=""):
    "Tries all cases, or those whose name holds a word; the number of bad ones"
    n = bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        room, whole = Path(tmp)/"room", Path(tmp)/"whole"
        make_room(whole)
        begun = time.perf_counter()
        for name, tried in cases():
            if word not in name: continue
            start = time.perf_counter()
            said = attempt(tried, room, whole)
            seconds = time.perf_counter() - start
            if not said and seconds > SECONDS/2: said = f"takes {seconds:.0f} s"
            n, bad = n + 1, bad + bool(said)
            if said: print(f"{name[:150]}\n    {said}", flush=True)
            if n % 500 == 0: print(f"... {n} cases, at {name[:80]}", flush=True)
        os.chdir("/")
    print(f"{n} cases, {bad} bad, {time.perf_counter() - begun:.0f} s")
    return bad


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--full", action="store_true", help="try all cases")
    options.add_argument("--only", default="", help="a word in the names of the cases to try")
    sys.exit(main(options.parse_args().only) > 0)
