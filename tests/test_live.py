"Training straight from files: resumed and shared out, it sees the same to the bit"
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import SMALL, fine, refused

from stiv_nb.cli.main import stiv
from stiv_nb.data.folder import VideoFolder, make_samples
from stiv_nb.stiv.pipeline import load, load_pipeline
from stiv_nb.train.buckets import open_latents
from stiv_nb.train.fetcher import Fetcher
from stiv_nb.train.loop import train
from stiv_nb.train.ranks import Ranks, rank_slots
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.sources import open_clips


@pytest.fixture
def recipe(here, tiny):
    "Six steps on sample clips, six of eight frames at a time"
    make_samples("clips", n=6)
    recipe = change(
        replace(RECIPES["demo-stiv"], model=SMALL), codec__folder=str(tiny), data__source="clips",
        data__encode="live", data__flip="auto", data__n_frames=6, data__image_every=4,
        run__name="live", run__n_steps=6, run__batch=4, run__log_every=1, run__save_every=3,
        optim__warmup=1, optim__cooldown=0, parallel__compile=False, parallel__precision="fp32")
    (here/"live.yaml").write_text(to_yaml(recipe))
    return recipe


def test_a_resumed_run_equals_an_uninterrupted_one(here, recipe):
    whole = train(recipe, folder="whole", device="cpu")
    shutil.copytree("whole", "stopped")
    shutil.rmtree("stopped/pipeline")
    shutil.rmtree("stopped/checkpoints/step-00000006")   # as if it had been killed at step 5
    resumed = train(recipe, folder="stopped", resume=True, device="cpu")
    pairs = zip(whole.pipeline.model.parameters(), resumed.pipeline.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [line["loss"] for line in whole.metrics] == [line["loss"] for line in resumed.metrics]


@pytest.mark.parametrize("buckets", ["", "6x32x32,4x32x32"])
def test_ranks_share_out_what_one_would_read(recipe, tiny, buckets):
    recipe = change(recipe, data__buckets=buckets)
    pipe = load_pipeline(tiny, "cpu")
    def opened():   # by a process of its own
        folder = VideoFolder("clips", n_frames=6)
        return Fetcher(open_latents(recipe, folder, pipe.vae, pipe.text), recipe)
    for step in (0, 3):   # single frames, whole clips
        alone = opened().fetch(step, rank_slots(4, Ranks(), 1)[0])
        parts = []
        for rank in range(2):
            for slots in rank_slots(4, Ranks(rank, 2), 2):
                parts.append((slots, opened().fetch(step, slots)))
        order = torch.cat([slots for slots, _ in parts]).argsort()
        shared = [torch.cat([part[i] for _, part in parts])[order] for i in (0, 2)]
        assert torch.equal(shared[0], alone[0]) and torch.equal(shared[1], alone[2])
        pooled = torch.cat([part[1].pooled for _, part in parts])[order]
        assert torch.equal(pooled, alone[1].pooled)


def test_from_the_command_line(here, recipe):
    said = fine("train", "live.yaml", "--data.n_val", "2", "--run.val_every", "3")
    assert "loss" in said
    for fields in (["--data.cache", "latents"], ["--data.source", "stream:clips"]):
        refused("train", "live.yaml", *fields, says="data.encode='live' reads clips in any order")
    (here/"clips"/"clips"/"0003.webm").write_bytes(b"no longer a film")
    code, said = stiv("train", "live.yaml", "--folder", "broken")
    assert code == 2 and "0003.webm can't be read as a video" in said.splitlines()[-1], said


def test_a_world_draws_new_items(recipe, tiny):
    recipe = change(recipe, data__source="shapes", data__n_clips=4)
    pipe, clips = load_pipeline(tiny, "cpu"), open_clips(recipe)
    data, _ = open_latents(recipe, clips.clips, pipe.vae, pipe.text, clips.pictures).split(1)
    fetcher, slots = Fetcher(data, recipe), torch.arange(4)
    for step in (1, 2):
        new = clips.clips.batch((4 + 4*step + slots).tolist())[0]
        assert (fetcher.fetch(step, slots)[0] - pipe.vae.encode(new)).abs().max() < 1e-4


def test_photographs_are_drawn_anew_at_each_step():
    pipe = load("photo", device="cpu")
    photos = Path(__file__).parents[1]/"data_samples/photos"
    recipe = change(RECIPES["photo"], data__source=f"photos:{photos}", data__encode="live",
                    data__n_clips=8)
    data = open_latents(recipe, open_clips(recipe).clips, pipe.vae, pipe.text)
    slots = torch.arange(4)
    order = [data.order(0, step, slots, 4) for step in (0, 1)]
    assert not {*order[0].tolist()} & {*order[1].tolist()}
    first, second, again = (data.at_step(order[step], None, 0, step, slots) for step in (0, 1, 0))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], second[0])
