"""Runs a notebook's tests in a process that check.py has started for it.

A file of its own, since a notebook that runs takes the place of `__main__`.
"""
import contextlib
import io
import os


def test_notebook(
    fn,       # path of the notebook
    threads,  # what torch may use, if this process has not imported it yet
):            # what it said where it failed, else nothing
    "Runs the notebook at `fn` as nbdev_test does"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from nbdev.config import get_config
    from nbdev.test import test_nb
    config = get_config()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ok, _ = test_nb(fn, skip_flags=config.tst_flags.split(), basepath=config.config_path)
    return "" if ok else said.getvalue().strip() or f"{fn.name} failed and said nothing"
