"""The same code on a GPU; skipped where there is none"""
from dataclasses import replace

import pytest
import torch

from stiv_nb.model.dit import DiT, ModelConfig
from stiv_nb.codec.text import Text
from stiv_nb.stiv.sampler import guided_velocity, sample
from stiv_nb.train.latents import fake_data
from stiv_nb.train.loop import Trainer
from stiv_nb.train.planner import plan
from stiv_nb.train.recipe import RECIPES, change

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CONFIG = ModelConfig(width=128, depth=3, heads=4, channels=8, text_width=64)


def awake():
    torch.manual_seed(0)
    model = DiT(CONFIG)
    for p in model.parameters():
        if not p.any(): p.data.normal_(std=.1)
    return model


def inputs(n=2): return torch.randn(n, 8, 8, 16, 16), torch.rand(n), torch.randn(n, 7, 64), torch.randn(n, 64), torch.rand(n, 6)


@torch.no_grad()
def test_same_answer_as_on_the_cpu():
    model, x = awake(), inputs()
    expect = model(*x)
    torch.backends.cuda.matmul.allow_tf32 = False
    got = model.cuda()(*(u.cuda() for u in x)).cpu()
    assert (got - expect).norm() < 1e-4*expect.norm()
    with torch.autocast("cuda", torch.bfloat16): half = model(*(u.cuda() for u in x)).float().cpu()
    assert (half - expect).norm() < .05*expect.norm()


@pytest.mark.parametrize("fields", [{}, dict(parallel__checkpoint="attention"), dict(parallel__compile=True), dict(parallel__ema_offload=True)], ids=["plain", "checkpointed", "compiled", "EMA aside"])
def test_training_steps(fields):
    r = change(RECIPES["demo-stiv"], **(dict(parallel__compile=False, run__batch=8, optim__warmup=5, run__n_steps=200, optim__cooldown=0) | fields))
    trainer = Trainer(replace(r, model=CONFIG), None, None, fake_data(r, 4), device="cuda")
    trainer.train_step()
    first = trainer.metrics(1.)["loss"]
    for _ in range(30): trainer.train_step()
    assert trainer.metrics(1.)["loss"] < first
    assert {v.device.type for v in trainer.ema.weights.values()} == {"cpu" if "parallel__ema_offload" in fields else "cuda"}


@torch.no_grad()
def test_sampling_does_not_wait_for_the_device():
    model = awake().cuda()
    z1, micro, text = torch.randn(1, 8, 8, 16, 16).cuda(), torch.rand(1, 6).cuda(), Text(torch.randn(1, 7, 64).cuda(), torch.randn(1, 64).cuda(), torch.ones(1, 7, dtype=torch.bool).cuda())
    given, noise = (torch.arange(8) == 0)[None].cuda(), torch.randn_like(z1)
    velocity = guided_velocity(model, text, text, micro, z1, given, "jit", 7.5, 1.5, True)
    sample(velocity, noise, z1, given, 2)
    torch.cuda.set_sync_debug_mode("error")
    try: velocity(noise, torch.full((1,), .5, device="cuda"))
    finally: torch.cuda.set_sync_debug_mode("default")


def test_planned_memory_is_near_the_measured():
    r = change(RECIPES["stiv-256-b"], run__batch=2, parallel__compile=False, parallel__checkpoint="full", run__p_drop_patches=0.)
    p = plan(r, "h200", 1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(r, None, None, fake_data(r), device="cuda")
    for _ in range(2): trainer.train_step()
    assert torch.cuda.max_memory_allocated() == pytest.approx(sum(p.memory.values()) + 2*p.per_sample["full"], rel=.1)
