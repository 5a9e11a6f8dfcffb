"What each process of a distributed test does: torchrun tests/ranks.py JOB OUT ARGS"
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

import stiv_nb.apps.demo
from stiv_nb.apps.demo import run_demo
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.model.dit import ModelConfig
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.latents import encode_clips
from stiv_nb.train.loop import train
from stiv_nb.train.ranks import full_tensor, join_ranks, leave_ranks, to_local
from stiv_nb.train.recipe import change
from stiv_nb.train.recipes import RECIPES
from stiv_nb.train.setup import set_up
from stiv_nb.train.trainer import Trainer
from stiv_nb.train.validation import validate

SHAPE = ModelConfig(width=36, depth=2, heads=3, channels=8, text_width=16, positions="both")
TINY = change(
    replace(RECIPES["demo-stiv"], model=SHAPE), data__n_clips=64, data__image_every=3,
    optim__warmup=2, optim__cooldown=0, optim__lr=3e-3, run__name="tiny", run__n_steps=10,
    run__batch=8, run__log_every=1,
    run__save_every=5, run__p_drop_patches=.5, parallel__compile=False, parallel__precision="fp32")


def parts(double=True):
    "Codec, text encoder and latents; the latter in float64 if asked for"
    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig(width=16)).eval()
    text = TinyText(TextConfig(words=VOCABULARY, width=16, depth=1)).eval()
    data = encode_clips(ShapeWorld(), vae, text, 64, pictures=ShapeWorld(n_frames=1))
    if not double: return vae, text, data
    data.z1 = data.z1.double()
    for name in ("table", "null"):
        words = getattr(data, name)
        wide = words._replace(tokens=words.tokens.double(), pooled=words.pooled.double())
        setattr(data, name, wide)
    return vae, text, data


def n_groups():
    "Process groups of this process"
    return len(torch.distributed.distributed_c10d._world.pg_map)


def gradient_bytes(model):
    "Bytes of gradients that wait on this rank, in shards or whole"
    waiting = [p.grad for p in model.parameters()]
    for module in model.modules():
        if not isinstance(module, FSDPModule): continue
        group = module._get_fsdp_state()._fsdp_param_group
        waiting.append(group._partial_reduce_output)
        for p in group.fsdp_params:
            waiting += [p.unsharded_accumulated_grad, getattr(p, "_unsharded_param", p).grad]
    return sum(to_local(x).nbytes for x in waiting if x is not None)


def watch_gradients(trainer):
    "A list for the bytes of gradients after each micro-batch"
    left = []
    backward = trainer.backward

    def watched(*args):
        sums = backward(*args)
        left.append(gradient_bytes(trainer.model))
        return sums

    trainer.backward = watched
    return left


def compare(out, runs):
    "Of each run: weights, average and optimiser state after its steps, in float64"
    vae, text, data = parts()
    torch.set_default_dtype(torch.float64)
    for name, n_steps, fields in runs:
        groups = n_groups()
        setup = set_up(change(TINY, **fields), vae=vae, text=text, data=data, device="cpu")
        setup.val = data.split(8)[1]
        trainer = Trainer(setup)
        waiting = watch_gradients(trainer)
        if found := checkpoints(out/name/"checkpoints"): trainer.load(found[-1])
        while trainer.step < n_steps: trainer.train_step()
        trainer.save(out/name/"checkpoints")
        state = trainer.state()
        seen = dict(validate(trainer), loss=trainer.metrics(1.)["loss"])
        flat = {}
        for kind in ("model", "ema"):
            for k, v in state[kind].items(): flat[f"{kind}.{k}"] = full_tensor(v)
        for k, s in state["optim"].items():
            for n, v in s.items(): flat[f"optim.{k}.{n}"] = full_tensor(v)
        local = [v.to_local() if hasattr(v, "to_local") else v for v in state["model"].values()]
        held = sum(v.numel() for v in local)
        notes = dict(seen=seen, held=held, waiting=waiting, groups=n_groups() - groups)
        if trainer.ranks.main: torch.save(flat | notes, out/name/"state.pt")


def demo(out):
    "A demo of few steps, not compiled, 32-bit, at a rate without warm-up: rounding stays rounding"
    torch.compiler.set_stance("force_eager")
    stiv_nb.apps.demo.has_bf16 = lambda device: False
    for name in ("demo-ti2v", "demo-stiv"):
        RECIPES[name] = change(RECIPES[name], optim__lr=1e-3)
    done = run_demo(.004, n_eval=4, n_curve=0, verbose=False, folder=out)
    if not join_ranks("cpu").main: return
    pipe = done.pipelines["STIV"]
    found = dict(
        vae=pipe.vae.state_dict(), text=pipe.text.state_dict(),
        losses=[m["loss"] for stage in done.pipelines for m in done.metrics[stage]],
        rows=[(v.task, v.split, v.n) for v in done.verdicts])
    torch.save(found, out/"demo.pt")


def loop(out, n_steps, slow=0., hang=None, timeout=600.):
    "The loop with a run folder; rank `hang` stops for ever at step 3"
    vae, text, data = parts(double=False)
    step = Trainer.train_step

    def slowed(self):
        time.sleep(slow)
        if hang is not None and self.ranks.rank == hang and self.step == 3: time.sleep(1e6)
        step(self)

    Trainer.train_step = slowed
    recipe = change(TINY, run__n_steps=n_steps, run__save_every=5, parallel__timeout=timeout)
    train(recipe, vae, text, data, folder=out, resume=None, device="cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    job, out, args = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    ranks = join_ranks("cpu")
    (out/f"pid{ranks.rank}").write_text(str(os.getpid()))
    try: globals()[job](out, **args)
    except (ValueError, OSError, KeyboardInterrupt) as e:
        if ranks.main: print(f"stiv: {e}", file=sys.stderr)
        sys.exit(2)
    finally: leave_ranks()
