"""Bad input of every class into every place that takes input: one line, exit code 2, nothing left.

Each place is a command line with a HERE in it, or a file of a folder that a command reads. Each
class is a list of values. pytest tries a sample of the pairs, the same one every time;
`python tests/test_fuzz.py --full` tries all of them, `--only WORD` those whose name holds a word.
"""
import contextlib
import json
import os
import random
import shutil
import signal
import socket
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

from stiv_nb.cli.main import stiv
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig, store_statistics
from stiv_nb.data.folder import make_samples
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.stiv.pipeline import Defaults, Pipeline
from stiv_nb.train.recipe import Recipe, change, to_yaml
from stiv_nb.train.recipes import RECIPES

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
    "half a character": "a\udcff", "emoji": "👩‍🚀", "turned": "a\u202eb", "upwards": "../../outside",
    "root": "/", "option": "--", "dot": ".", "formula": r"$5 or \frac{", "drive": "C:x",
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
    "merge": "a: &a {width: 1}\nmodel:\n  <<: *a", "zero byte": "a: \0", "binary": "model: !!binary x",
    "set": "model: !!set {a, b}", "keys": "? [a, b]\n: c", "number keys": "1: {2: 3}\nmodel: {4: 5}",
    "huge number": "model: {width: " + "9"*5000 + "}", "hex": "model: {width: 0x" + "f"*4000 + "}",
    "base 60": "model: {width: " + "1:1"*1300 + "}", "long": "#" * 2_000_000, "twice": "model: {}\nmodel: {}",
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
    ("number", ["cache", SMALL, "--out", "latents", "--shard", HERE]),
    ("file",   ["cache", HERE, "--out", "latents"]),
    ("file",   ["cache", SMALL, "--data.source", HERE, "--out", "latents"]),
    ("target", ["cache", SMALL, "--out", HERE]),
    ("number", ["data", "make", "new", "--n", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--seed", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--size", HERE]),
    ("number", ["data", "make", "new", "--n", "1", "--n-frames", HERE]),
    ("target", ["data", "make", HERE, "--n", "1"]),
    ("text",   ["data", "make", HERE, "--n", "0"]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--n", HERE]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--n-frames", HERE]),
    ("number", ["data", "look", "clips", "-o", "look.png", "--stride", HERE]),
    ("target", ["data", "look", "clips", "-o", f"{HERE}.png"]),
    ("file",   ["data", "look", HERE]),
    ("file",   ["data", "check", HERE]),
    ("text",   ["data", "check", HERE]),
    ("number", ["data", "check", "clips", "--n-frames", HERE]),
    ("number", ["data", "check", "clips", "--stride", HERE]),
    ("target", ["bench", "--train", "nope", "--rows", f"{HERE}.jsonl"]),
    ("text",   ["bench", "--json", HERE]),
    ("text",   ["bench", "--train", HERE, "--device", "cpu"]),
    ("number", ["bench", "--train", SMALL, "--device", "cpu", "--depth", "9", "--batch", HERE]),
    ("number", ["bench", "--train", SMALL, "--device", "cpu", "--batch", "99999999", "--depth", HERE]),
    ("number", ["bench", "--train", "nope", "--seconds", HERE]),
    ("text",   ["bench", "--device", HERE]),
    ("number", ["demo", "--folder", "clips", "--seed", HERE]),
    ("text",   ["doctor", HERE]),
]

# Files that a command reads in a folder: folder, file, classes, words of the command

STREAM = ["train", SMALL, "--data.source", "stream:clips.tar", "--codec.folder", "tiny"]
INSIDE = [
    ("tiny",  "config.json",           "json",  ["sample", RED, "--weights", "tiny", "-o", "x.gif"]),
    ("tiny",  "model.safetensors",     "cut",   ["sample", RED, "--weights", "tiny", "-o", "x.gif"]),
    ("clips", "captions.jsonl",        "lines", ["data", "check", "clips"]),
    ("clips", "captions.jsonl",        "lines", ["data", "look", "clips", "-o", "look.png"]),
    ("clips", "captions.jsonl",        "lines", [*TRAIN, "--data.source", "clips"]),
    ("clips", "clips/0000.mp4",        "cut",   ["data", "check", "clips"]),
    ("clips", "clips/0000.mp4",        "cut",   ["data", "look", "clips", "-o", "look.png"]),
    ("clips", "clips/0000.mp4",        "cut",   ["eval", "--folder", "clips"]),
    ("clips", "clips/0000.mp4",        "cut",   [*TRAIN, "--data.source", "clips"]),
    ("done",  "recipe.yaml",           "yaml",  ["train", "done", "--resume", "--run.n_steps", "2"]),
    ("done",  "metrics.jsonl",         "lines", ["train", "done", "--resume"]),
    ("done",  "checkpoints/step-00000001/notes.json", "json", ["train", "done", "--resume"]),
    ("done",  "checkpoints/step-00000001/.metadata", "cut", ["train", "done", "--resume"]),
]


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
    Image.new("RGB", (8, 8)).save(folder/"picture.png")
    code, said = stiv("train", SMALL, "--folder", "done")
    assert code == 0, said


def seen(folder):
    "Names, sizes and times of everything in a folder, links not followed"
    out = {}
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        out[str(path.relative_to(folder))] = (found.st_mode, found.st_size, found.st_mtime_ns)
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


def fault(args, folder):
    "What is wrong with the answer to a command line; '' if nothing"
    before = seen(folder)
    try:
        with limited(SECONDS): code, text = stiv(*args)
    except BaseException as e: return f"{type(e).__name__}: {str(e)[:200]}"
    if code not in (0, 1, 2): return f"exit code {code}"
    strange = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r"]
    if strange and code: return f"control characters {strange[:3]}"
    if "Traceback" in text: return "a traceback"
    if code != 2: return ""
    if len(text.splitlines()) != 1: return f"{len(text.splitlines())} lines: {text[:300]!r}"
    if not text.startswith("stiv: ") or len(text) > 600: return f"says {text[:200]!r}"
    after = seen(folder)
    if after != before:
        changed = [k for k in after if after[k] != before.get(k)]
        return f"leaves {changed[:4]}, {text[:200]}"
    return ""


# Cases: name -> how it is tried

def cases():
    "All of them: name, function (room) -> fault"
    for kind, words in PLACES:
        place = " ".join(words)
        if kind == "number": values = NUMBERS
        elif kind == "text": values = TEXTS
        else: values = FILES
        for name, value in values.items():
            if kind == "target" and name in ("missing", "empty folder"): continue
            run = _with_file if kind in ("file", "target") else _with_value
            yield f"{place}: {name}", run(words, value)
    for part in fields(Recipe):
        for name in fields(part.type):
            place = f"plan {SMALL} --{part.name}.{name.name}"
            values = TEXTS if name.type == str or name.type == str | None else NUMBERS
            for label, value in values.items():
                words = ["plan", SMALL, f"--{part.name}.{name.name}={HERE}"]
                yield f"{place}: {label}", _with_value(words, value)
            for label, value in VALUES.items():
                yield f"{part.name}.{name.name} in YAML: {label}", _in_recipe(part.name, name.name, value)
    for label, text in YAML.items():
        for words in (["recipe", "bad.yaml"], ["train", "bad.yaml"]):
            yield f"{words[0]} YAML: {label}", _with_yaml(words, text)
    for folder, file, kind, words in INSIDE:
        for label, make in FILES.items():
            yield f"{folder}/{file} for {' '.join(words[:2])}: {label}", _inside(folder, file, make, words)
        yield from _contents(folder, file, kind, words)


def _put(words, value): return [word.replace(HERE, value) for word in words]

def _with_value(words, value): return lambda room: fault(_put(words, value), room)

def _with_file(words, make):
    def tried(room):
        name = "made"
        for word in words:
            if HERE in word: name = word.replace(HERE, "made").split("=")[-1].removeprefix("stream:")
        make(room/name)
        return fault(_put(words, "made"), room)
    return tried

def _in_recipe(part, name, value):
    def tried(room):
        parts = yaml.safe_load((room/SMALL).read_text())
        parts[part][name] = value
        (room/"bad.yaml").write_text(yaml.safe_dump(parts))
        return fault(["recipe", "bad.yaml"], room)
    return tried

def _with_yaml(words, text):
    def tried(room):
        (room/"bad.yaml").write_text(text)
        return fault(words, room) or ("code ran" if (room/"ran").exists() else "")
    return tried

def _inside(folder, file, make, words):
    def tried(room):
        (room/folder/file).unlink()
        make(room/folder/file)
        return fault(words, room)
    return tried

def _written(folder, file, data, words):
    def tried(room):
        path = room/folder/file
        whole = path.read_bytes()
        path.write_bytes(data(whole))
        return fault(words, room)
    return tried

def _replaced(keys, value):
    def data(whole):
        found = json.loads(whole.splitlines()[0])
        inner = found
        for key in keys[:-1]: inner = inner[key]
        if value is KeyError: del inner[keys[-1]]
        else: inner[keys[-1]] = value
        return json.dumps(found).encode() + b"\n"
    return data

def _contents(folder, file, kind, words):
    "The file, changed"
    place = f"{folder}/{file} for {' '.join(words[:2])}"
    if kind == "yaml":
        for label, text in YAML.items():
            yield f"{place}: {label}", _written(folder, file, lambda whole, text=text: text.encode(), words)
    if kind == "cut":
        for share in (.01, .3, .9, .999):
            def cut(whole, share=share): return whole[:int(len(whole)*share)]
            yield f"{place}: first {share}", _written(folder, file, cut, words)
        def flipped(whole): return bytes(b ^ 255 for b in whole[:99]) + whole[99:]
        yield f"{place}: flipped", _written(folder, file, flipped, words)
    if kind in ("json", "lines"):
        for label, text in LINES.items():
            yield f"{place}: {label}", _written(folder, file, lambda whole, text=text: text.encode() + b"\n", words)
        for keys in KEYS[file.split("/")[-1]]:
            for label, value in (VALUES | {"gone": KeyError}).items():
                yield f"{place} {'.'.join(map(str, keys))}: {label}", _written(folder, file, _replaced(keys, value), words)


KEYS = {
    "config.json": [("format",), ("model",), ("model", "width"), ("vae",), ("vae", "channels"), ("text",),
                    ("text", "words"), ("defaults",), ("defaults", "steps"), ("defaults", "fps"),
                    ("defaults", "size"), ("objective",), ("notes",)],
    "captions.jsonl": [("file",), ("caption",)],
    "metrics.jsonl": [("step",), ("loss",)],
    "notes.json": [("step",), ("sums",), ("norm_mean",), ("recipe",)],
}


def clean(room, whole):
    "Puts the room back as it was"
    for path in room.iterdir():
        if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
        else: path.unlink()
    shutil.copytree(whole, room, dirs_exist_ok=True, symlinks=True)


def attempt(name, tried, room, whole):
    "One case in a fresh room; prints what is wrong"
    clean(room, whole)
    os.chdir(room)
    try: return tried(room)
    except Exception as e: return f"the test itself fails: {type(e).__name__}: {e}"


def main(args):
    "Tries all cases, or those whose name holds a word"
    word = args[args.index("--only") + 1] if "--only" in args else ""
    with tempfile.TemporaryDirectory() as tmp:
        whole, room = Path(tmp)/"whole", Path(tmp)/"room"
        make_room(whole)
        room.mkdir()
        n, bad, begun = 0, 0, time.perf_counter()
        for name, tried in cases():
            if word not in name: continue
            start = time.perf_counter()
            said = attempt(name, tried, room, whole)
            seconds = time.perf_counter() - start
            if not said and seconds > 5: said = f"took {seconds:.0f} s"
            n, bad = n + 1, bad + bool(said)
            if n % 500 == 0: print(f"... {n}: {name[:80]}", flush=True)
            if said: print(f"{name[:150]}\n    {said}", flush=True)
        os.chdir("/")
        print(f"{n} cases, {bad} bad, {time.perf_counter() - begun:.0f} s")
    return int(bad > 0)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
