"""Settings of every test: no network, and no test that waits for ever."""
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
