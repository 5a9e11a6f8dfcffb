"""Several processes compute what one computes, stop and go on, and say what is wrong; gloo on the CPU"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stiv_nb.train.checkpoint import checkpoints

RANKS = Path(__file__).with_name("ranks.py")
ENV = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def start(n, job, out, **args):
    out.mkdir(parents=True, exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)] if n > 1 else []
    return subprocess.Popen([sys.executable, *launch, str(RANKS), job, str(out), json.dumps(args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, start_new_session=True)


def run(n, job, out, **args):
    p = start(n, job, out, **args)
    _, err = p.communicate(timeout=240)
    assert p.returncode == 0, err[-3000:]
    return torch.load(out/"state.pt") if job == "compare" else None


def assert_same(a, b, relative):
    assert a.keys() == b.keys()
    for k in a.keys() - {"seen", "held"}:
        x, y = a[k], b[k]
        assert x.shape == y.shape and (x - y).norm() <= relative * y.norm().clamp_min(1e-12), (k, ((x - y).norm() / y.norm()).item())
    for k, x in a["seen"].items(): assert x == pytest.approx(b["seen"][k], rel=max(relative, 1e-15))


@pytest.fixture(scope="module")
def alone(tmp_path_factory): return run(1, "compare", tmp_path_factory.mktemp("alone"), n_steps=10)


@pytest.mark.parametrize("n, fields", [(2, {}), (4, {}), (1, dict(parallel__accumulate=4)), (2, dict(parallel__accumulate=2, parallel__checkpoint="attention")), (4, dict(parallel__replicas=2))], ids=["2 ranks", "4 ranks", "accumulation", "both", "HSDP"])
def test_same_as_one_process(alone, tmp_path, n, fields):
    many = run(n, "compare", tmp_path, n_steps=10, **fields)
    assert_same(many, alone, 1e-10)
    if n > 1: assert many["held"] < alone["held"] / (n // fields.get("parallel__replicas", 1)) * 1.25   # a process holds its share of the weights


def test_resume_at_another_size(alone, tmp_path):
    for n, steps in ((1, 3), (2, 5), (4, 8), (1, 10)): state = run(n, "compare", tmp_path, n_steps=steps)
    assert_same(state, alone, 1e-10)


def test_resume_at_the_same_size_is_exact(tmp_path):
    straight = run(2, "compare", tmp_path/"straight", n_steps=10)
    for steps in (4, 10): state = run(2, "compare", tmp_path/"stopped", n_steps=steps)
    assert_same(state, straight, 0.)


def test_batch_that_does_not_divide(tmp_path):
    p = start(2, "compare", tmp_path, n_steps=1, run__batch=9)
    _, err = p.communicate(timeout=120)
    assert p.returncode != 0 and "stiv: run.batch=9 does not divide into 2 processes" in err and "use a multiple of 2" in err


def last_step(out): return int(checkpoints(out/"checkpoints")[-1].name[5:]) if checkpoints(out/"checkpoints") else 0


def test_killed_at_random_moments(tmp_path):
    draw, straight = random.Random(0), tmp_path/"straight"
    kills = int(os.environ.get("STIV_KILLS", 3))
    n_steps, out, done = max(60, 30*kills), tmp_path/"killed", 0
    run(1, "loop", straight, n_steps=n_steps)
    for _ in range(kills):
        before = last_step(out)
        p = start(1, "loop", out, n_steps=n_steps)
        end = time.time() + 60
        while last_step(out) <= before and p.poll() is None and time.time() < end: time.sleep(.005)
        time.sleep(draw.random()*.2)
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            done += 1
        p.communicate()
        assert last_step(out) >= before
        if last_step(out) == n_steps: break
    print(f"{done} kills, the last at step {last_step(out)} of {n_steps}")
    run(1, "loop", out, n_steps=n_steps)
    read = lambda folder: [{k: m[k] for k in ("step", "loss", "grad_norm")} for m in map(json.loads, (folder/"metrics.jsonl").read_text().splitlines())]
    assert read(out) == read(straight)


def test_sigterm_leaves_a_checkpoint(tmp_path):
    p = start(2, "loop", tmp_path, n_steps=1000, slow=.05)
    while last_step(tmp_path) < 5: time.sleep(.05)
    os.kill(int((tmp_path/"pid1").read_text()), signal.SIGTERM)   # any process may be told
    p.communicate(timeout=60)
    step = last_step(tmp_path)
    assert p.returncode != 0 and 5 <= step < 1000
    assert len((tmp_path/"metrics.jsonl").read_text().splitlines()) == step and not [*(tmp_path/"checkpoints").glob(".*")]


def test_a_process_that_dies_or_hangs_is_named(tmp_path):
    p = start(2, "loop", tmp_path, n_steps=1000, slow=.02, timeout=6.)
    while last_step(tmp_path) < 5: time.sleep(.05)
    stopped = int((tmp_path/"pid1").read_text())
    os.kill(stopped, signal.SIGSTOP)
    begun, said = time.time(), ""
    while "its last step was" not in said and (line := p.stderr.readline()): said += line
    assert "stiv: process 1 has been silent for" in said and time.time() - begun < 30, said
    os.kill(stopped, signal.SIGKILL)                              # torchrun alone would give it half a minute of grace
    p.communicate(timeout=60)
    assert p.returncode != 0
