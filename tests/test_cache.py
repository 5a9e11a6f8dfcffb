"""Caches of latents as users meet them: other clips, a kill, a neighbour, a folder that shrank"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from helpers import SMALL, check_line, fine, refused
from stiv_nb.cli.main import stiv
from stiv_nb.codec.vae import VAEConfig
from stiv_nb.core.random import uniform
from stiv_nb.data.folder import VideoFolder, write_folder
from stiv_nb.train.cache import CachedLatents, fill_cache
from stiv_nb.train.latents import sample_order
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.setup import open_recipe, set_up

CAPTIONS = ["a red circle moving left", "a blue square", "a green triangle standing still"]


def folder_of(path, seed=0, n=12, captions=CAPTIONS):
    "A folder of clips"
    clips = torch.randint(0, 255, (n, 4, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    words = [captions[i % len(captions)] for i in range(n)]
    return write_folder(path, clips.byte(), words, suffix="", overwrite=True)


@pytest.fixture
def recipe(tiny, here):
    "A YAML file of a run of three steps on the folder a"
    small = change(
        replace(RECIPES["demo-stiv"], model=SMALL), run__name="small", run__n_steps=3, run__batch=4,
        run__save_every=2, optim__warmup=1, optim__cooldown=0, data__source=str(here / "a"),
        data__n_clips=10, data__n_val=2, data__n_frames=4, codec__folder=str(tiny),
        parallel__compile=False)
    path = here / "small.yaml"
    path.write_text(to_yaml(small))
    folder_of(here / "a")
    return path


def times(folder): return {p.name: p.stat().st_mtime_ns for p in folder.glob("shard-*")}


def opens(recipe, **fields):
    "Whether a run is set up with the cache `latents`; it would train on it"
    found = change(open_recipe(str(recipe)), data__cache="latents", **fields)
    assert set_up(found, device="cpu").data.folder.name == "latents"


def test_a_cache_of_other_clips_is_refused(recipe, here):
    "Filled from A and asked for B, by `stiv cache` and by training"
    fine("cache", recipe, "--out", "latents", "--shard", 4)
    before = times(here / "latents")
    assert len(before) == 3
    fine("cache", recipe, "--out", "latents", "--shard", 4)
    assert times(here / "latents") == before                      # nothing is encoded twice
    opens(recipe)
    folder_of(here / "b", seed=1)
    to_b = ["--data.source", here / "b"]
    refused("cache", recipe, *to_b, "--out", "latents", "--shard", 4, says="is another cache")
    cached = ["--data.cache", "latents", "--folder", "run"]
    refused("train", recipe, *to_b, *cached, says="holds other clips than the recipe names")
    assert not (here / "run").exists()


def test_a_stale_cache_is_refused(recipe, here):
    "A caption was mended, a clip was drawn anew; a folder that moved is the same"
    fine("cache", recipe, "--out", "latents")
    cached = ["--data.cache", "latents", "--folder", "run"]
    shutil.move(here / "a", here / "moved")
    refused("train", recipe, "--data.source", "elsewhere", *cached, says="data.source is")
    opens(recipe, data__source=str(here / "moved"))
    opens(recipe)                                                 # gone, but rightly named
    folder_of(here / "a", captions=CAPTIONS[::-1])
    stale = "its captions or files are not those that are there now"
    refused("cache", recipe, "--out", "latents", says=stale)
    refused("train", recipe, *cached, says=stale)
    shutil.rmtree(here / "a")
    folder_of(here / "a", seed=3)                                 # noise of the same size
    refused("train", recipe, *cached, says=stale)
    shutil.rmtree(here / "a")
    folder_of(here / "a", n=20)                                   # more behind those taken
    opens(recipe)
    assert not (here / "run").exists()


def test_a_folder_that_shrank_is_noticed_on_resume(recipe, here):
    fine("train", recipe, "--folder", "run")
    shutil.rmtree(here / "run" / "checkpoints" / "step-00000003")
    lines = (here / "a" / "captions.jsonl").read_text().splitlines(keepends=True)
    (here / "a" / "captions.jsonl").write_text("".join(lines[:-3]))
    go_on = ["train", recipe, "--folder", "run", "--resume"]
    code, text = stiv(*go_on)
    assert code == 2, text
    *bars, said = text.splitlines()   # the clips are encoded before the checkpoint is read
    check_line(said, "have changed since the run began (12 then, 9 now)")
    assert all("%|" in line for line in filter(None, bars)), text
    (here / "a" / "captions.jsonl").write_text("".join(lines))
    assert "loss" in fine(*go_on)


def test_what_cache_json_says_is_checked(recipe, here):
    fine("cache", recipe, "--out", "latents")
    path = here / "latents" / "cache.json"
    good = json.loads(path.read_text())
    harms = [dict(n_clips="12"), dict(n_clips=-1), dict(n_clips=None), dict(n_clips=10**30),
             dict(shard=0), dict(shape=[4, 8, 8]), dict(shape="4888"),
             dict(shape=[4, 8, 8, 10**30]), dict(text_width=0), dict(about=None),
             dict(encoders=7), dict(format="stiv_nb cache"), dict(format=None)]
    texts = [json.dumps(good | harm) for harm in harms]
    texts += ["", "[]", "null", "{", "\xff", "[" * 10**5, '{"n_clips": ' + "9" * 5000 + "}"]
    for text in texts:
        path.write_text(text, encoding="latin-1")
        code, said = stiv("train", recipe, "--data.cache", "latents", "--folder", "run")
        assert code == 2 and len(said.strip().splitlines()) == 1, (text[:60], said)
    assert not (here / "run").exists()


SLOW = """
import sys, time
from stiv_nb.train import cache
encode = cache._encode_shard
def slow(*args):
    time.sleep(.4)
    return encode(*args)
cache._encode_shard = slow
from stiv_nb.cli.main import main
sys.exit(main(sys.argv[1:]))"""


def start(*args):
    "`stiv` in a process of its own, half a second for each shard"
    args = [sys.executable, "-c", SLOW, *map(str, args)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(.02)


def test_a_cache_is_stopped_and_has_one_writer(recipe, here):
    "SIGTERM ends it with a line, a second job is refused, a killed one leaves nothing behind"
    fill = ["cache", recipe, "--out", "latents", "--shard", 1]
    job = start(*fill)
    wait_for(here / "latents" / "shard-000001.safetensors", job)
    refused(*fill, says="another process writes to latents")
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130, said
    assert "of 12 shards; the same command goes on" in said.splitlines()[-1]

    job = start(*fill)
    n = len(times(here / "latents"))
    wait_for(here / "latents" / f"shard-{n:06}.safetensors", job)
    job.kill()
    job.communicate()
    left = here / "latents" / ".shard-000011.safetensors.stiv-0123456789abcdef.tmp"
    left.write_bytes(b"half a shard")
    fine(*fill)
    assert not left.exists()
    names = sorted(os.listdir(here / "latents"))
    assert names == ["cache.json", *(f"shard-{i:06}.safetensors" for i in range(12))]


def test_no_ties_and_no_table_at_ten_million():
    "What stands first: not the lower of two items with one key, and not after seconds of sorting"
    n = 10**7
    begun = time.perf_counter()
    order = torch.cat([sample_order(0, step, torch.arange(4096), 4096, n) for step in range(8)])
    assert time.perf_counter() - begun < 3                        # a sort takes 9 s
    assert len(order.unique()) == len(order)
    small = sample_order(0, 0, torch.arange(24_000), 24_000, 24_000)
    keys = uniform(0, small, 7_000_000)
    assert (keys.diff() >= 0).all()                               # today's order is yesterday's
    rising = small.diff()[keys.diff() == 0] > 0                   # but for ties
    assert 0 < rising.sum() < len(rising)


class Wide(torch.nn.Module):
    "Encoders of real width that take no time"
    def __init__(self, width=64):
        super().__init__()
        self.config = VAEConfig(width=width)
        self.register_buffer("mean", torch.zeros(1))
        self.width = width

    def encode(self, x):
        if isinstance(x, list): return torch.ones(len(x), 3, 64), torch.ones(len(x), 64), \
            torch.arange(3) < torch.tensor([[2 + len(c) % 2] for c in x])
        return torch.randn(len(x), 2, 4, 8, 8)


def test_no_more_shards_are_mapped_than_allowed(here, monkeypatch):
    "Linux allows a process 65,530 maps: shards are mapped when needed, the oldest let go"
    monkeypatch.setattr("stiv_nb.train.cache._MAPPED", 5)
    clips = VideoFolder(folder_of(here / "a", n=40), n_frames=4)
    fill_cache("latents", clips, Wide(), Wide(), 40, shard=1)
    data = CachedLatents("latents", Wide(), Wide())

    def n_maps():
        with open("/proc/self/maps") as f: return sum("latents/shard-" in line for line in f)

    if not os.path.exists("/proc/self/maps"): pytest.skip("no /proc")
    assert n_maps() == 0
    z1, text, _ = data.batch(torch.arange(40))
    assert n_maps() == 5
    assert z1.dtype == text.tokens.dtype == torch.float16
    assert torch.equal(data.batch(torch.tensor([7]))[0][0], z1[7])
