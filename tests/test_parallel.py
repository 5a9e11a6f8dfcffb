"""Ways to compute a training step, in one process: sharded, compiled, in 16 bits"""
import functools
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from stiv_nb.model import attention
from stiv_nb.model.dit import ModelConfig
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.parallelize import load_sharded, parallelize
from stiv_nb.train.planner import KEPT
from stiv_nb.train.ranks import Ranks, full_tensor, leave_ranks, to_local
from stiv_nb.train.recipe import ParallelConfig, change
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.trainer import fake_trainer

SHAPE = ModelConfig(width=64, depth=2, unmasked_depth=0, heads=2, channels=8, text_width=16)
TINY = change(
    replace(RECIPES["demo-stiv"], model=SHAPE), run__n_steps=10, run__batch=4, optim__lr=3e-3,
    optim__warmup=2, optim__cooldown=0, parallel__compile=False, parallel__precision="fp32")


@pytest.fixture(autouse=True)
def alone():
    "The group that a test has made of this process goes with it"
    yield
    leave_ranks()


def trained(steps=3, **fields):
    "A trainer after some steps on random latents"
    trainer = fake_trainer(change(TINY, **fields), "cpu")
    for _ in range(steps): trainer.train_step()
    return trainer


def gap(a, b):
    "Relative difference of two trainers' weights"
    pairs = [(full_tensor(p), full_tensor(q)) for p, q in zip(
        a.model.parameters(), b.model.parameters(), strict=True)]
    difference = math.sqrt(sum((p - q).square().sum().item() for p, q in pairs))
    return difference / math.sqrt(sum(q.square().sum().item() for _, q in pairs))


def test_one_process_takes_the_path_of_many(monkeypatch):
    # bf16 would make much of a difference in the last digit
    monkeypatch.setattr("stiv_nb.train.muon.has_bf16", lambda device: False)
    plain = trained()
    sharded = trained(parallel__shard="always", parallel__accumulate=2)
    assert all(hasattr(p, "placements") for p in sharded.model.parameters())
    assert gap(sharded, plain) < 1e-5
    assert sharded.metrics(1.)["loss"] == pytest.approx(plain.metrics(1.)["loss"], rel=1e-5)


@pytest.mark.parametrize("precision, most", [("bf16", .005), ("fp16", .0005)])
def test_same_precision_alone_and_sharded(precision, most):
    exact = trained()
    loss = exact.metrics(1.)["loss"]
    for shard in ("auto", "always"):
        half = trained(parallel__precision=precision, parallel__shard=shard)
        assert 1e-6 < gap(half, exact) < most, (shard, gap(half, exact))
        line = half.metrics(1.)
        assert line["loss"] == pytest.approx(loss, rel=most)
        assert line["skipped"] == 0


def test_fp16_overflow_skips_the_step_and_goes_on(tmp_path):
    run = trained(1, parallel__precision="fp16", optim__guard="stop")
    before = [p.detach().clone() for p in run.model.parameters()]
    run.scale.value = 2.**24
    quiet = run.data.z1
    run.data.z1 = quiet*1e3                # a loss that 16 bits can't hold when it is scaled
    run.fetcher.ahead = None
    run.train_step()
    assert run.scale.state() == [2.**23, 0]
    assert all(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))
    assert run.metrics(1.)["skipped"] == 1
    run.data.z1 = quiet
    run.fetcher.ahead = None
    run.scale.value = 2.**12
    run.train_step()
    run.save(tmp_path)
    again = fake_trainer(run.recipe, "cpu")
    again.load(checkpoints(tmp_path)[-1])
    assert again.scale.state() == run.scale.state() == [2.**12, 1]
    for trainer in (run, again): trainer.train_step()
    assert gap(again, run) == 0


def fused(q, k, v, mask=None):
    "The fused kernel everywhere, as on a GPU"
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def compiled_model():
    "Two sharded blocks in bf16 that keep attention; the compiler reads them, without making code"
    torch.compiler.reset()
    counters.clear()
    config = ModelConfig(width=64, depth=2, unmasked_depth=0, heads=2, channels=4,
                         text_width=16, temporal_patch=1)
    torch.manual_seed(0)
    model = config.build()
    weights = {name: torch.randn(p.shape)*.05 for name, p in model.named_parameters()}
    model.to("meta")
    parallel = ParallelConfig(
        precision="bf16", compile=True, activation_checkpointing="attention", shard="always")
    no_code = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    with patch.object(nn.Module, "compile", no_code): parallelize(model, parallel, Ranks())
    load_sharded(model, weights.items())
    return model


def kept(model):
    "Bytes that a forward pass keeps for the backward pass beside the weights; by tokens × width"
    frames, side = 20, 18
    batch = (torch.randn(1, frames, 4, side, side), torch.rand(1), torch.randn(1, 5, 16),
             torch.randn(1, 16), torch.rand(1, 6))
    own = {to_local(p).untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own: seen[storage.data_ptr()] = storage
        return x

    with (torch.autocast("cpu", torch.bfloat16),
          torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)): out = model(*batch)
    n_bytes = sum(storage.nbytes() for storage in seen.values())
    out.float().square().sum().backward()
    return n_bytes / (frames*(side//2)**2*64)


def test_compiled_blocks_keep_what_is_planned():
    with patch.object(attention, "attend", fused):
        model = compiled_model()
        two = kept(model)
        del model.blocks[1]
        one = kept(model)
    assert counters["stats"]["unique_graphs"] == 1   # both blocks, and all that follow
    assert two - one == pytest.approx(KEPT["half"]["attention"], rel=.1)
