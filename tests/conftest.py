"""Settings of every test: no network, nobody waits for ever; and what several of them start from"""
import os
import signal

import pytest

# Before anything imports huggingface_hub: tests ask for nothing from outside.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
LIMIT = 300   # seconds for one test; the longest takes half a minute on two quiet cores


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    "Fail a test that takes too long, at the line where it waits; Windows has no such alarm"
    if not hasattr(signal, "SIGALRM"): return (yield)

    def stop(*_): pytest.fail(f"{item.name} has not ended within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try: return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty current folder"
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    "The folder of a pipeline with random weights; every test leaves it as it was"
    import torch
    from helpers import SMALL
    from stiv_nb.codec.text import TextConfig, TinyText
    from stiv_nb.codec.vae import TinyVAE, VAEConfig, store_statistics
    from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
    from stiv_nb.model.dit import DiT
    from stiv_nb.stiv.pipeline import Defaults, Pipeline
    torch.manual_seed(0)
    model = DiT(SMALL)
    vae = TinyVAE(VAEConfig(width=16)).eval()
    text = TinyText(TextConfig(words=VOCABULARY, width=16, depth=1))
    for p in model.parameters():
        if not p.any(): p.data.normal_(std=.2)
    store_statistics(vae, ShapeWorld().batch(range(16))[0])
    pipe = Pipeline(model, vae, text, Defaults(steps=2, max_frames=12), device="cpu")
    return pipe.save(tmp_path_factory.mktemp("pipeline") / "tiny")
