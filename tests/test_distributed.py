"""Several processes compute what one computes, resume, and say what is wrong; gloo on the CPU"""
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

from stiv_nb.train.checkpoint import checkpoints, hold_run
from stiv_nb.train.ranks import Ranks

RANKS = Path(__file__).with_name("ranks.py")
ENV = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
SPLIT = dict(parallel__shard="always")   # a model so small is whole on every rank otherwise


def start(n, job, out, **args):
    "A job of ranks.py in n processes, under way"
    out.mkdir(parents=True, exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    launch = torchrun if n > 1 else []
    return subprocess.Popen(
        [sys.executable, *launch, str(RANKS), job, str(out), json.dumps(args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, start_new_session=True)


def run(n, job, out, **args):
    "Runs a job to its end, which must be a good one"
    p = start(n, job, out, **args)
    _, err = p.communicate(timeout=240)
    assert p.returncode == 0, err[-3000:]


def compare(n, out, *runs):
    "States after (name, steps, fields), all in the same n processes: starting them takes longest"
    run(n, "compare", out, runs=runs)
    return {name: torch.load(out/name/"state.pt") for name, *_ in runs}


def assert_same(a, b, relative):
    assert a.keys() == b.keys()
    for k in a.keys() - {"seen", "held", "waiting", "groups"}:
        x = a[k]
        y = b[k]
        assert x.shape == y.shape, k
        gap = (x - y).norm()
        assert gap <= relative * y.norm().clamp_min(1e-12), (k, (gap / y.norm()).item())
    for k, x in a["seen"].items(): assert x == pytest.approx(b["seen"][k], rel=max(relative, 1e-15))


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    "The state after ten steps, computed in different ways"
    out = tmp_path_factory.mktemp("states")
    four = dict(parallel__accumulate=4)
    both = dict(
        SPLIT, parallel__accumulate=2, parallel__activation_checkpointing="attention")
    hsdp = dict(parallel__replicas=2, parallel__accumulate=2, parallel__ema_offload=True)
    whole = dict(parallel__accumulate=2, parallel__ema_offload=True)
    muon = dict(optim__name="muon")
    return {
        **compare(1, out/"1", ("alone", 10, {}), ("accumulation", 10, four), ("Muon", 10, muon)),
        **compare(2, out/"2", ("2 ranks", 10, SPLIT), ("both", 10, both), ("whole", 10, whole)),
        **compare(4, out/"4", ("4 ranks", 10, SPLIT), ("HSDP", 10, hsdp), ("4 whole", 10, {}),
                  ("4 whole, Muon", 10, muon), ("4 ranks, Muon", 10, muon | SPLIT)),
    }


@pytest.mark.parametrize("name, shards", [
    ("2 ranks",      2),
    ("4 ranks",      4),
    ("accumulation", 1),
    ("both",         2),
    ("HSDP",         2),
    ("whole",        1),
    ("4 whole",      1),
])
def test_same_as_one_process(states, name, shards):
    assert_same(states[name], states["alone"], 1e-10)
    slack = 1.25 if shards > 1 else 1   # shards are not all of one size
    assert states[name]["held"] <= states["alone"]["held"] / shards * slack


@pytest.mark.parametrize("name", ["4 whole, Muon", "4 ranks, Muon"])
def test_muon_is_the_same_whoever_makes_a_matrix_orthogonal(states, name):
    assert_same(states[name], states["Muon"], 1e-8)


def test_gradients_are_split_between_micro_batches(states):
    weights = 8*sum(v.numel() for k, v in states["alone"].items() if k.startswith("model."))
    assert states["accumulation"]["waiting"][0] == weights   # one process has them whole
    for name in ("both", "HSDP"): assert states[name]["waiting"][0] / weights < .7


def test_average_aside_makes_no_groups_per_weight(states):
    assert states["HSDP"]["groups"] <= 4   # two axes of ranks, for GPUs and for CPUs


def test_resume_at_another_size(states, tmp_path):
    "Split or whole, on any number of ranks"
    for n, steps, fields in ((2, 3, SPLIT), (4, 5, {}), (4, 8, SPLIT), (1, 10, {})):
        state = compare(n, tmp_path, ("run", steps, fields))["run"]
    assert_same(state, states["alone"], 1e-10)


def test_resume_at_the_same_size_is_exact(states, tmp_path):
    runs = {"2 ranks": SPLIT, "whole": dict(parallel__accumulate=2, parallel__ema_offload=True)}
    for steps in (4, 10):
        found = compare(2, tmp_path, *((name, steps, fields) for name, fields in runs.items()))
    for name, state in found.items(): assert_same(state, states[name], 0.)


def test_batch_that_does_not_divide(tmp_path):
    p = start(2, "compare", tmp_path, runs=[("run", 1, dict(run__batch=9))])
    _, err = p.communicate(timeout=120)
    assert p.returncode != 0
    assert "stiv: run.batch=9 does not divide into 2 processes" in err
    assert "use a multiple of 2" in err


def last_step(out):
    "Step of the newest checkpoint; 0 if there is none"
    saved = checkpoints(out/"checkpoints")
    return int(saved[-1].name[5:]) if saved else 0


def course(folder):
    "What a run logged of its steps, without the times"
    lines = (folder/"metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    return [(m["step"], m["loss"], m["grad_norm"]) for m in logged]


def test_killed_at_random_moments(tmp_path):
    rng = random.Random(0)
    straight = tmp_path/"straight"
    out = tmp_path/"killed"
    kills = int(os.environ.get("STIV_KILLS", 3))
    n_steps = 15*kills
    done = 0
    run(1, "loop", straight, n_steps=n_steps)
    for _ in range(kills):
        before = last_step(out)
        p = start(1, "loop", out, n_steps=n_steps)
        end = time.time() + 60
        while last_step(out) <= before and p.poll() is None and time.time() < end:
            time.sleep(.005)
        if not before:   # a neighbour is told who is there, and takes nothing away
            with pytest.raises(ValueError, match=f"another process .* \\(pid {p.pid} on "):
                with hold_run(out, Ranks()): pass
        time.sleep(rng.random()*.2)
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            done += 1
        p.communicate()
        assert last_step(out) >= before
        if last_step(out) == n_steps: break
    print(f"{done} kills, the last at step {last_step(out)} of {n_steps}")
    run(1, "loop", out, n_steps=n_steps)
    assert course(out) == course(straight)
    assert not [*out.rglob(".*stiv-*")]   # what the killed ones left is swept, the lock is gone


def test_the_demo_is_the_same_on_two_ranks(tmp_path):
    "Encoders side by side, stages together, rows of the table side by side"
    for n in (1, 2): run(n, "demo", tmp_path/str(n))
    alone, both = (torch.load(tmp_path/str(n)/"demo.pt") for n in (1, 2))
    for part in ("vae", "text"):
        for k, x in alone[part].items(): assert x.equal(both[part][k]), k
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert both["rows"] == alone["rows"]


def test_sigterm_leaves_a_checkpoint(tmp_path):
    p = start(2, "loop", tmp_path, n_steps=1000, slow=.05)
    while last_step(tmp_path) < 5: time.sleep(.05)
    os.kill(int((tmp_path/"pid1").read_text()), signal.SIGTERM)   # any rank may get it
    p.communicate(timeout=60)
    step = last_step(tmp_path)
    assert p.returncode != 0
    assert 5 <= step < 1000
    assert len((tmp_path/"metrics.jsonl").read_text().splitlines()) == step
    assert not [*(tmp_path/"checkpoints").glob(".*")]   # nothing half-written


def test_a_process_that_dies_or_hangs_is_named(tmp_path):
    p = start(2, "loop", tmp_path, n_steps=1000, slow=.02, timeout=6.)
    while last_step(tmp_path) < 5: time.sleep(.05)
    stopped = int((tmp_path/"pid1").read_text())
    os.kill(stopped, signal.SIGSTOP)
    begun = time.time()
    said = ""
    for line in p.stderr:
        said += line
        if "its last step was" in said: break
    assert "stiv: process 1 has been silent for" in said, said
    assert time.time() - begun < 30
    os.kill(stopped, signal.SIGKILL)   # torchrun would first wait half a minute for it
    p.communicate(timeout=60)
    assert p.returncode != 0
