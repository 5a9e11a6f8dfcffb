"""The same code on a GPU; skipped where there is none"""
from dataclasses import replace

import pytest
import torch

from stiv_nb.bench.job import TABLES, bench_recipe, rows_table
from stiv_nb.bench.speed import fake_batch
from stiv_nb.bench.throughput import (
    Setting, compiled_graphs, gpu_kind, open_trainer, start_afresh, train_row)
from stiv_nb.core.outside import read_json_lines
from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.stiv.sampler import SamplingConfig, guided_velocity, sample
from stiv_nb.train.ranks import leave_ranks
from stiv_nb.train.recipe import change
from stiv_nb.train.recipes import RECIPES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CONFIG = ModelConfig(width=128, depth=3, heads=4, channels=8, text_width=64)
SMALL = replace(change(RECIPES["demo-stiv"], run__batch=8, optim__warmup=5), model=CONFIG)
WAYS = {
    "plain": {},
    "checkpointed": dict(parallel__activation_checkpointing="attention"),
    "compiled": dict(parallel__compile=True),
    "EMA aside": dict(parallel__ema_offload=True),
    "sharded": dict(parallel__shard="always", parallel__accumulate=2),
    "sharded, checkpointed, compiled": dict(
        parallel__shard="always", parallel__activation_checkpointing="attention",
        parallel__compile=True),
    "fp16": dict(parallel__precision="fp16"),
}


@pytest.fixture(autouse=True)
def alone():
    "The group that a test has made of this process goes with it"
    yield
    leave_ranks()


def awake():
    "A model none of whose weights is zero, so that every input reaches the output"
    torch.manual_seed(0)
    model = DiT(CONFIG)
    for p in model.parameters():
        if not p.any(): p.data.normal_(std=.1)
    return model


def inputs():
    "Arguments of the model's forward pass, on the CPU"
    z_t = torch.randn(2, 8, 8, 16, 16)
    text = torch.randn(2, 7, 64)
    return z_t, torch.rand(2), text, torch.randn(2, 64), torch.rand(2, 6)


@torch.no_grad()
def test_same_answer_as_on_the_cpu():
    model = awake()
    on_cpu = inputs()
    expected = model(*on_cpu)
    on_gpu = [x.cuda() for x in on_cpu]
    model.cuda()
    torch.backends.cuda.matmul.allow_tf32 = False
    got = model(*on_gpu).cpu()
    assert (got - expected).norm() < 1e-4*expected.norm()
    with torch.autocast("cuda", torch.bfloat16): half = model(*on_gpu).float().cpu()
    assert (half - expected).norm() < .05*expected.norm()


@pytest.mark.parametrize("way", WAYS)
def test_training_steps(way):
    fields = dict(parallel__compile=False, run__n_steps=200, optim__cooldown=0) | WAYS[way]
    start_afresh()
    trainer = open_trainer(change(SMALL, **fields), "cuda")
    trainer.train_step()
    assert (compiled_graphs() > 0) == fields["parallel__compile"]
    first = trainer.metrics(1.)["loss"]
    for _ in range(30): trainer.train_step()
    assert trainer.metrics(1.)["loss"] < first
    kept_on = {weight.device.type for weight in trainer.ema.weights.values()}
    assert kept_on == {"cpu" if way == "EMA aside" else "cuda"}


def test_gradients_do_not_wait_for_the_device():
    recipe = change(SMALL, parallel__compile=False)
    trainer = open_trainer(recipe, "cuda")
    for _ in range(2): trainer.train_step()   # clips of the next step lie ready
    slots = torch.arange(recipe.run.batch)
    torch.cuda.set_sync_debug_mode("error")
    try: trainer.backward(slots, (trainer.step + 1, slots))
    finally: torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_sampling_does_not_wait_for_the_device():
    model = awake().cuda()
    z1, text, null, micro = fake_batch(change(SMALL, run__batch=1), device="cuda")
    given = (torch.arange(z1.shape[1], device="cuda") == 0)[None]
    noise = torch.randn_like(z1)
    velocity = guided_velocity(model, text, null, micro, z1, given)
    sample(velocity, noise, z1, given, SamplingConfig(steps=2))
    torch.cuda.set_sync_debug_mode("error")
    try: velocity(noise, .5)
    finally: torch.cuda.set_sync_debug_mode("default")


def test_planned_memory_is_near_the_measured():
    setting = Setting(2, "full", masked=False, compiled=False)
    row = train_row(RECIPES["stiv-256-b"], setting, "cuda", steps=2)
    assert row["peak_gb"] == pytest.approx(row["planned_gb"], rel=.1)


def test_rows_of_the_bench(tmp_path):
    file = tmp_path/"rows.jsonl"
    for kind in TABLES: bench_recipe(SMALL, kind, batch=8, device="cuda", path=file, seconds=0)
    rows = read_json_lines(file)
    assert [row["kind"] for row in rows] == list(TABLES)
    assert not any("failed" in row for row in rows)
    assert ("mfu" in rows[0]) == (gpu_kind("cuda") is not None)
    assert rows[0]["peak_gb"] > 0
    assert rows[0]["graphs"] > 0   # the first row of training is compiled
    assert rows_table(rows)
