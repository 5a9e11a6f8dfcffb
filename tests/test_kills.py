"""Kills at every file operation: there is the old thing or the new one, never half of one"""
import os
import shutil
import sys
from threading import Event, Thread

import pytest
import torch

from stiv_nb.core import files
from stiv_nb.core.files import atomic_write, find_folder, replace_folder, sweep, temp_path
from stiv_nb.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from stiv_nb.train.ranks import Ranks

OPERATIONS = {
    "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod",
    "os.truncate", "shutil.rmtree"}
EXCHANGE = files._exchange
ways = pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child of its own")


def can_exchange(folder):
    "Whether this disk swaps two names in one act"
    pair = [folder/"a", folder/"b"]
    for p in pair: p.mkdir()
    try: return EXCHANGE(*pair)
    finally:
        for p in pair: p.rmdir()


def killed_before(n, act, exchange):
    "Runs `act` in a child that is gone before its n-th file operation; whether it came that far"
    child = os.fork()
    if child: return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = n

    def count(event, args=None):
        nonlocal left
        if event not in OPERATIONS: return
        left -= 1
        if not left: os._exit(9)   # as kill -9: nothing is cleaned up

    def counted(a, b):
        count("os.rename")
        return exchange and EXCHANGE(a, b)

    try:
        files._exchange = counted
        sys.addaudithook(count)
        act()
    finally: os._exit(0)


def kills(act, exchange):
    "The number of each kill, after it, up to the last file operation"
    n = 1
    while killed_before(n, act, exchange):
        yield n
        n += 1
    assert n > 3, "no operation was counted"


def write_folder(folder, text):
    "A folder of two files that say the same, put in its place"
    new = temp_path(folder)
    new.mkdir()
    for name in "ab": (new/name).write_text(text)
    replace_folder(new, folder)


def said(folder):
    "What the two files say; they must agree"
    a, b = [(find_folder(folder)/name).read_text() for name in "ab"]
    assert a == b
    return a


@forks
@ways
def test_folder_killed_at_every_operation(tmp_path, exchange):
    if exchange and not can_exchange(tmp_path): pytest.skip("this disk can't exchange names")
    folder = tmp_path/"folder"
    write_folder(folder, "old")
    for n in kills(lambda: write_folder(folder, "new"), exchange):
        assert said(folder) in ("old", "new"), n
        if exchange: assert folder.is_dir(), n        # a reader of the name itself finds it, too
        sweep(tmp_path, age=0)
        assert said(folder) in ("old", "new"), n
        assert [*tmp_path.iterdir()] == [folder], n
        write_folder(folder, "old")
    assert said(folder) == "new"


@forks
@pytest.mark.parametrize("over", [True, False])
def test_file_killed_at_every_operation(tmp_path, over):
    path = tmp_path/"file"
    path.write_text("old")
    for n in kills(lambda: atomic_write(path, "new", over=over), True):
        sweep(tmp_path, age=0)
        texts = {p.read_text() for p in tmp_path.iterdir()}
        assert texts <= {"old", "new"}, n
        assert over or path.read_text() == "old", n


def test_a_reader_finds_the_folder_at_any_moment(tmp_path):
    if not can_exchange(tmp_path): pytest.skip("this disk can't exchange names")
    folder = tmp_path/"folder"
    write_folder(folder, "0")
    over = Event()
    missed = []

    def read():
        while not over.is_set(): missed.append(not folder.is_dir())

    reader = Thread(target=read)
    reader.start()
    for i in range(100): write_folder(folder, f"{i}")
    over.set()
    reader.join()
    assert len(missed) > 100 and not any(missed)


def state(value): return dict(model=dict(w=torch.full((3, 4), value)))


def load(path):
    "The number in a checkpoint, which must be whole"
    found = state(0.)
    notes = load_checkpoint(path, found, Ranks())
    value = found["model"]["w"].unique().item()
    assert notes == dict(value=value)
    return value


@forks
@ways
@pytest.mark.parametrize("step", [10, 15], ids=["same step", "next step"])
def test_checkpoint_killed_at_every_operation(tmp_path, exchange, step):
    if exchange and not can_exchange(tmp_path): pytest.skip("this disk can't exchange names")

    def save(step, value):
        save_checkpoint(tmp_path, step, state(value), dict(value=value), Ranks(), keep_last=1)

    save(10, 1.)
    for n in kills(lambda: save(step, 2.), exchange):
        found = checkpoints(tmp_path)
        assert {load(path) for path in found} <= {1., 2.}, n
        if exchange: assert found, n
        sweep(tmp_path, age=0)             # as the next start does
        found = checkpoints(tmp_path)
        assert load(found[-1]) in (1., 2.), n
        assert sorted(tmp_path.iterdir()) == found, n
        for path in found: shutil.rmtree(path)
        save(10, 1.)
    assert load(checkpoints(tmp_path)[-1]) == 2.
