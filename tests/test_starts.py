"""How runs start, are looked at and stop, on several ranks: python tests/test_starts.py JOB ROOM"""
import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed.distributed_c10d import _set_pg_timeout

from stiv_nb.cli.launch import GRACE, start_ranks
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.model.dit import ModelConfig
from stiv_nb.model.inflate import source_of
from stiv_nb.model.layers import start_weights
from stiv_nb.model.rope import axis_positions
from stiv_nb.stiv.pipeline import Pipeline
from stiv_nb.train import trainer as trainer_module
from stiv_nb.train.checkpoint import checkpoints
from stiv_nb.train.latents import encode_clips, fake_latents
from stiv_nb.train.loop import train
from stiv_nb.train.parallelize import parallelize
from stiv_nb.train.ranks import Ranks, full_tensor, join_ranks, leave_ranks
from stiv_nb.train.recipe import change
from stiv_nb.train.recipes import PROGRESSIONS, RECIPES
from stiv_nb.train.setup import RunSetup, set_up
from stiv_nb.train.start import Encoders, build_model, open_start
from stiv_nb.train.trainer import Trainer

LINUX = Path("/proc/self/status").exists()
SMALL = ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both")
LARGE = replace(SMALL, width=384, depth=4, heads=6)   # 74 MB, seen beside what else is there
IMAGE = replace(LARGE, temporal=False, temporal_patch=1)
LIMIT = 8.   # seconds after which a rank that says nothing counts as stuck
TINY = change(
    replace(RECIPES["demo-stiv"], model=SMALL), data__n_clips=32, optim__warmup=0,
    optim__cooldown=0, run__name="tiny", run__n_steps=6, run__batch=4, run__log_every=1,
    run__save_every=100, parallel__compile=False, parallel__precision="fp32")


def encoders():
    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig(width=16)).eval()
    return vae, TinyText(TextConfig(words=VOCABULARY, width=16, depth=1)).eval()


def start_from_both(room, shard="auto"):
    "A recipe whose model starts from an image model, and whose time from a video model"
    large = change(replace(TINY, model=LARGE), parallel__shard=shard)
    return change(large, run__start=str(room/"image"), run__start_temporal=str(room/"video"))


# ---- what each rank does

def memory():
    "Bytes of this process that lie in no file"
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s*(\d+) kB", text)[1]) * 1024


@contextmanager
def peak_memory():
    "A list, in the end with the most bytes that were added while it was entered"
    gc.collect()
    before = memory()
    seen, over = [0], threading.Event()

    def watch():
        while not over.wait(.002): seen.append(memory() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try: yield seen
    finally:
        over.set()
        thread.join()
        seen[:] = [max(seen)]


def start(room):
    "A sharded model from two folders: its memory, and what it has become"
    ranks, recipe = join_ranks("cpu"), start_from_both(room, "always")
    with torch.device("meta"): tiny = SMALL.build()
    parallelize(tiny, recipe.parallel, ranks)   # whatever is made once is made now
    data = fake_latents(recipe)
    with peak_memory() as seen:
        setup = set_up(recipe, data=data, device="cpu")
        model, report = build_model(recipe, ranks, setup.start, setup.start_temporal)
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    sums = {k: full_tensor(p).double().abs().sum().item() for k, p in model.named_parameters()}
    found = dict(copies=seen[0]/n_bytes, report=vars(report), sums=sums)
    (room/f"start{ranks.rank}.json").write_text(json.dumps(found))


def look(room):
    "A look that takes longer than a message, or a rank without progress, may take"
    ranks = join_ranks("cpu")
    _set_pg_timeout(timedelta(seconds=LIMIT), torch.distributed.group.WORLD)
    vae, text = encoders()
    data = encode_clips(ShapeWorld(), vae, text, 32)
    kept = []

    def gather(x, keep=True):
        whole = full_tensor(x, keep)
        if x.dim(): kept.append(whole is not None)   # not the gradient's norm
        return whole

    def slow_strip(pipe, step):
        for _ in range(4):
            time.sleep(.3*LIMIT)
            pipe("a red circle", progress=False, steps=1)

    trainer_module.full_tensor = gather
    recipe = change(TINY, run__sample_every=4, parallel__timeout=LIMIT)
    train(recipe, vae, text, data, on_sample=slow_strip, device="cpu")
    (room/f"look{ranks.rank}.json").write_text(json.dumps(kept))


def start_and_look(room):
    "Both, in the same processes: starting them takes longest"
    start(room)
    look(room)


def stop(room):
    "A run whose second step takes long"
    vae, text = encoders()
    data = encode_clips(ShapeWorld(), vae, text, 32)
    step = Trainer.train_step

    def slow_step(self):
        if self.step == 1: (room/"begun").touch()
        if self.step >= 1: time.sleep(3.)
        step(self)

    Trainer.train_step = slow_step
    train(TINY, vae, text, data, folder=room/"run", device="cpu")


# ---- tests

def run_ranks(job, room, processes=2):
    "A job of this file in several processes, under way"
    room.mkdir(parents=True, exist_ok=True)
    return start_ranks([__file__, job, str(room)], room/"log.txt", processes, "cpu")


def finish(process, room):
    "Waits for a job, which must end well"
    assert process.wait(timeout=120) == 0, (room/"log.txt").read_text()[-3000:]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    "Two pipelines, and what two ranks say that have started from them and had a look"
    room = tmp_path_factory.mktemp("starts")
    for name, config in (("image", IMAGE), ("video", LARGE)):
        model = start_weights(config.build(), len(name))
        Pipeline(model, *encoders(), device="cpu").save(room/name)
    finish(run_ranks("start_and_look", room), room)
    return room


@pytest.mark.skipif(not LINUX, reason="asks Linux for the memory of a process")
def test_no_rank_holds_a_start_whole(room):
    "At most a shard and a weight, where there were three copies"
    image, video = (open_start(room/name).model for name in ("image", "video"))
    alone, report = build_model(start_from_both(room), join_ranks("cpu"), image, video)
    assert report.inflated and report.temporal
    for rank in range(2):
        found = json.loads((room/f"start{rank}.json").read_text())
        print(f"rank {rank}: {found['copies']:.2f} copies of the model")
        assert found["copies"] < 1
        assert found["report"] == vars(report)
        for k, p in alone.named_parameters():
            assert found["sums"][k] == pytest.approx(p.detach().double().abs().sum().item())


def test_strips_may_take_their_time(room):
    "Longer than `parallel.timeout`; the other ranks wait, and keep no weight"
    zero, one = (json.loads((room/f"look{i}.json").read_text()) for i in range(2))
    assert all(zero) and not any(one)
    assert len(zero) == len(one) > 0


def test_torchrun_waits_for_the_checkpoint(tmp_path, monkeypatch):
    "SIGTERM for torchrun, in a step of three seconds"
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    short = run_ranks("stop", tmp_path/"short", 1)
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    long = run_ranks("stop", tmp_path/"long", 1)
    saved = {}
    for name, process in (("short", short), ("long", long)):
        end = time.monotonic() + 100
        while not (tmp_path/name/"begun").exists() and time.monotonic() < end: time.sleep(.02)
        os.kill(process.pid, signal.SIGTERM)
    for name, process in (("short", short), ("long", long)):
        assert process.wait(timeout=60) != 0
        saved[name] = [p.name for p in checkpoints(tmp_path/name/"run"/"checkpoints")]
    assert saved["short"] == []                  # killed: as any run was after 30 seconds
    assert saved["long"] == ["step-00000002"]    # the step ended, then it was saved
    assert GRACE > 60


# ---- the example for Slurm, with its commands played by stubs

STUBS = {
    "srun": """#!/bin/bash
        echo $$ > srun.pid
        trap 'sleep .2; echo saved >> said; exit ${SRUN_EXIT:-1}' TERM
        echo "srun $*" >> said
        [ -n "$SRUN_SECONDS" ] && sleep "$SRUN_SECONDS" && exit ${SRUN_EXIT:-1}
        while true; do sleep .02; done""",
    "scancel": """#!/bin/bash
        echo "scancel $*" >> said
        kill -TERM $(cat srun.pid)""",
    "scontrol": """#!/bin/bash
        [ "$1" = show ] && echo node1 && echo node2 && exit
        echo "scontrol $*" >> said""",
}


def slurm_script(room):
    "The example of the page on launching, beside stubs of Slurm's commands"
    page = json.loads((Path(__file__).parents[1]/"nbs/960_launch.ipynb").read_text("utf-8"))
    text = "".join("".join(cell["source"]) for cell in page["cells"])
    (room/"job.sh").write_text(re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.S)[1])
    for name, code in STUBS.items():
        (room/name).write_text(code.replace("\n        ", "\n") + "\n")
        (room/name).chmod(0o755)
    return ["bash", str(room/"job.sh")]


def play_slurm(room, term=False, **env):
    "Exit code of the script, and what its commands said, in order"
    env = dict(os.environ, PATH=f"{room}:{os.environ['PATH']}", SLURM_JOB_ID="7",
               SLURM_JOB_NODELIST="node[1-2]", **env)
    job = subprocess.Popen(slurm_script(room), cwd=room, env=env)
    said = room/"said"
    end = time.monotonic() + 20
    while not said.exists() and time.monotonic() < end: time.sleep(.01)
    if term: job.send_signal(signal.SIGTERM)   # as `--signal=B:TERM` does: the script alone
    return job.wait(timeout=20), said.read_text().splitlines()[1:], said.read_text()


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_the_slurm_example(tmp_path):
    for name in ("asked", "over", "done", "failed"): (tmp_path/name).mkdir()
    code, said, first = play_slurm(tmp_path/"asked", term=True)
    assert "--rdzv-endpoint node1:29500" in first
    assert said == ["scancel --signal=TERM 7", "saved", "scontrol requeue 7"]
    code, said, _ = play_slurm(tmp_path/"over", term=True, SRUN_EXIT="0")   # its last step
    assert (code, said) == (0, ["scancel --signal=TERM 7", "saved"])
    assert play_slurm(tmp_path/"done", SRUN_SECONDS=".1", SRUN_EXIT="0")[:2] == (0, [])
    assert play_slurm(tmp_path/"failed", SRUN_SECONDS=".1", SRUN_EXIT="3")[:2] == (3, [])


def test_the_examples_have_time():
    "What torchrun waits ends before the scheduler's patience does"
    text = (Path(__file__).parents[1]/"nbs/960_launch.ipynb").read_text("utf-8")
    waits = re.findall(r'SHUTDOWN_TIMEOUT(?:=|, value: \\")(\d+)', text)
    limits = re.findall(r"(?:B:TERM@|GracePeriodSeconds: )(\d+)", text)
    assert len(waits) == len(limits) == 2
    assert all(60 < int(wait) < int(limit) for wait, limit in zip(waits, limits))


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
    leave_ranks()


# ---- what the stages of Fig. 6b and 6c start from

LEGS = [name for figure in ("fig6b", "fig6c") for name in PROGRESSIONS[figure]]


@pytest.mark.parametrize("name", LEGS)
def test_starts_of_fig_6(name):
    "Each leg takes its weights from the legs that it names, and takes a step"
    def small(name):
        recipe = RECIPES[name]
        tiny = dict(width=32, depth=1, unmasked_depth=1, heads=2, text_width=16)
        recipe = replace(recipe, model=replace(recipe.model, **tiny))
        return change(recipe, run__batch=2, parallel__compile=False, parallel__precision="fp32")

    def source(folder):
        return folder and source_of(start_weights(small(folder[5:]).model.build(), 1))

    recipe = small(name)
    start, temporal = source(recipe.run.start), source(recipe.run.start_temporal)
    setup = RunSetup(recipe, Ranks(), Encoders(None, None), fake_latents(recipe, 5),
                     start=start, start_temporal=temporal)
    trainer = Trainer(setup)
    trainer.train_step()
    trainer.fetcher.close()
    assert math.isfinite(trainer.metrics(1.)["loss"])
    report = trainer.start_report
    assert bool(report.copied) == (start is not None) and bool(report.temporal) == ("both" in name)
    from_pictures = start is not None and not start.config.temporal and recipe.model.temporal
    assert bool(report.inflated) == from_pictures
    assert not report.dropped


def test_positions_of_fig_6():
    "Squeezed positions stay where the shorter clip's were; the others go on"
    def positions(name):
        model, n_frames = RECIPES[name].model, RECIPES[name].data.n_frames
        return axis_positions(n_frames // model.temporal_patch, model.rope_frames).max().item()

    assert positions("fig6c-t2v") == 3
    for name in ("interpolated", "stride-2"): assert 3 < positions(f"fig6c-{name}") < 4
    assert positions("fig6c-extrapolated") == 7
