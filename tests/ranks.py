"""What each process of a distributed test does: python -m torch.distributed.run … tests/ranks.py JOB OUT [STEPS]"""
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.model.dit import ModelConfig
from stiv_nb.train.latents import LatentData
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.loop import Trainer, train
from stiv_nb.train.ranks import join_ranks, leave_ranks, full_tensor
from stiv_nb.train.recipe import RECIPES, Recipe, change

demo = RECIPES["demo-stiv"]
TINY = Recipe(model=ModelConfig(width=36, depth=2, heads=3, channels=8, text_width=16, positions="both"), data=replace(demo.data, n_clips=64, image_every=3), condition=demo.condition, flow=demo.flow,
              optim=replace(demo.optim, warmup=2, cooldown=0, lr=3e-3), run=replace(demo.run, name="tiny", n_steps=10, batch=8, log_every=1, save_every=5, p_drop_patches=.5))


def parts(double=True):
    torch.manual_seed(0)
    vae, text = TinyVAE(VAEConfig(width=16)).eval(), TinyText(TextConfig(words=VOCABULARY, width=16, depth=1)).eval()
    data = LatentData(ShapeWorld(), vae.float(), text.float(), 64, photo=ShapeWorld(n_frames=1))
    if double: data.z1, data.table, data.null = data.z1.double(), data.table._replace(tokens=data.table.tokens.double(), pooled=data.table.pooled.double()), data.null._replace(tokens=data.null.tokens.double(), pooled=data.null.pooled.double())
    return vae, text, data


def compare(out, runs):
    "For each run: weights, average and optimiser state after its steps in float64; goes on from its checkpoints if there are any"
    vae, text, data = parts()
    torch.set_default_dtype(torch.float64)
    for name, n_steps, fields in runs:
        trainer = Trainer(change(TINY, **fields), vae, text, data, device="cpu", val=data.split(8)[1])
        if found := checkpoints(out/name/"checkpoints"): trainer.load(found[-1])
        while trainer.step < n_steps: trainer.train_step()
        trainer.save(out/name/"checkpoints")
        state, seen = trainer.state(), dict(trainer.validate(), loss=trainer.metrics(1.)["loss"])
        flat = {f"model.{k}": full_tensor(v) for k, v in state["model"].items()} | {f"ema.{k}": full_tensor(v) for k, v in state["ema"].items()} | {f"optim.{k}.{n}": full_tensor(v) for k, s in state["optim"].items() for n, v in s.items()}
        held = sum(v.to_local().numel() if hasattr(v, "to_local") else v.numel() for v in state["model"].values())
        if trainer.world.main: torch.save(dict(flat, seen=seen, held=held), out/name/"state.pt")


def loop(out, n_steps, slow=0., hang=None, timeout=600.):
    "The loop with a run folder; process `hang` stops for ever at step 3"
    vae, text, data = parts(double=False)
    step = Trainer.train_step

    def slowed(self):
        time.sleep(slow)
        if hang is not None and self.world.rank == hang and self.step == 3: time.sleep(1e6)
        step(self)

    Trainer.train_step = slowed
    train(change(TINY, run__n_steps=n_steps, run__save_every=5, parallel__timeout=timeout), vae, text, data, folder=out, resume=None, device="cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    job, out, args = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    world = join_ranks("cpu")
    (out/f"pid{world.rank}").write_text(str(os.getpid()))
    try: globals()[job](out, **args)
    except (ValueError, OSError, KeyboardInterrupt) as e:
        if world.main: print(f"stiv: {e}", file=sys.stderr)
        sys.exit(2)
    finally: leave_ranks()
