"""Everything `make test` checks: one line per step.

    python docs/check.py               # all steps
    python docs/check.py export style  # only these
    python docs/check.py --list        # what there is

The quick steps come first, and the first that fails ends it. The slow ones then run side by side in
two lanes. All of them finish, and what failed runs once more with nothing beside it, since a busy
machine can fail a test of time; a second failure counts.

No step changes a tracked file, so it runs on a dirty tree, in a fresh clone, and twice in a row.
"""
import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Callable, NamedTuple

from one_notebook import test_notebook

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LANES = 2
STEPS = {}   # in the order of this file
SLOW = {}    # those that share the lanes: each returns its jobs


class Failed(Exception):
    "A step failed; the message is what its tool said, or what to do"


class Job(NamedTuple):
    "A piece of a slow step"
    step: str       # the step that it belongs to
    name: str       # what is run: a notebook's file name, say
    run: Callable   # gets whether this is the second try; raises `Failed`, returns a note


class Done(NamedTuple):
    "How a job went"
    job: Job
    begin: float   # in seconds, as time.time() says
    end: float
    note: str      # what there is to say where it passed
    error: str     # empty where it passed


def step(f):
    "Add `f` to the steps"
    STEPS[f.__name__] = f
    return f


def slow_step(f):
    "Add `f`, which lists its jobs, to the steps that share the lanes"
    SLOW[f.__name__] = f
    return step(f)


def tool(name, *args, cwd=ROOT, **env):
    "Run a tool of this environment; its output is returned"
    exe = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if exe is None: raise Failed(f"{name} is not installed: run `make setup`")
    done = subprocess.run([exe, *map(str, args)], cwd=cwd, text=True, env=os.environ | env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    said = done.stdout.rstrip()
    if done.returncode < 0: said += f"\n{name} was ended by signal {-done.returncode}"
    if done.returncode: raise Failed(said or f"{name} failed and said nothing")
    return said


def python(*args, **kwargs): return tool(Path(sys.executable).name, *args, **kwargs)


def scratch(fn): return fn.name[0] == "_"


def notebooks():
    "index.ipynb and every notebook of nbs/ that is not scratch"
    fns = sorted((ROOT / "nbs").glob("*.ipynb"))
    return [ROOT / "index.ipynb", *(f for f in fns if not scratch(f))]


def modules(folder):
    "The Python files below `folder`, as bytes by relative name"
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*.py"))}


# --- quick steps

@step
def export():
    "the modules of stiv_nb/ are what the notebooks export"
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        shutil.copy(ROOT / "settings.ini", tmp)
        no_weights = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / "stiv_nb", tmp / "stiv_nb", ignore=no_weights)
        no_scratch = shutil.ignore_patterns(".ipynb_checkpoints", "_*")
        shutil.copytree(ROOT / "nbs", tmp / "nbs", ignore=no_scratch)
        before = modules(tmp / "stiv_nb")
        tool("nbdev_export", cwd=tmp)
        after = modules(tmp / "stiv_nb")
        stale = [n for n in after if after[n] != before.get(n)]
        if stale: raise Failed(f"run `nbdev_export` and commit: {', '.join(stale)}")
        # nbdev never deletes a module, so one whose notebook is gone would stay for ever
        edit = re.compile(rb"File to edit: (\S+\.ipynb)")
        for name, text in after.items():
            m = edit.search(text)
            if not m: continue
            source = m[1].decode()
            if not (tmp / "stiv_nb" / name).parent.joinpath(source).exists():
                raise Failed(f"delete stiv_nb/{name}: {source}, which it comes from, is gone")


@step
def clean():
    "the notebooks are as nbdev_clean leaves them"
    from execnb.nbio import loads, nb2str
    from nbdev.clean import _nbdev_clean
    dirty = []
    for fn in notebooks():
        text = fn.read_text(encoding="utf-8")
        nb = loads(text)
        _nbdev_clean(nb)
        if nb2str(nb) != text: dirty.append(fn.name)
    if dirty: raise Failed(f"run `make prepare` and commit: {', '.join(dirty)}")


@step
def readme():
    "README.md is what index.ipynb says"
    python("docs/nbdocs.py", "readme", "--check")


@step
def style():
    "ruff finds nothing in modules, notebooks, docs and tests (rules in pyproject.toml)"
    python("-m", "ruff", "check", "--quiet", "--no-cache", "--output-format", "concise")


@step
def pictures():
    "every shown cell that draws has its picture, and drawings are as docs/drawings.py makes them"
    python("docs/pictures.py")
    python("docs/drawings.py", "--check")


# --- slow steps

LOCAL = threading.local()   # the worker of a lane
WORKERS = []


def in_worker(f, *args):
    "What `f` of `args` gives in this lane's worker: a process, so that torch is imported once"
    if not hasattr(LOCAL, "worker"):
        LOCAL.worker = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        WORKERS.append(LOCAL.worker)
    try: return LOCAL.worker.submit(f, *args).result()
    except BrokenProcessPool:
        del LOCAL.worker
        raise Failed("its process died; was there too little memory?") from None


def notebook_job(step_name, fn):
    "The job that runs the notebook at `fn`"
    share = max(1, (os.cpu_count() or LANES) // LANES)   # or the lanes would wait for each other

    def run(again):
        error = in_worker(test_notebook, fn, share)
        if error: raise Failed(error)
        return ""

    return Job(step_name, fn.name, run)


@slow_step
def tests():
    "pytest tests/"
    cache = tempfile.mkdtemp()   # which tests failed

    def run(again):
        options = ["-q", "--color=no", "-o", f"cache_dir={cache}"]
        if again: options.append("--last-failed")   # all, if the first try did not get to say
        said = python("-m", "pytest", "tests", *options)
        shutil.rmtree(cache, ignore_errors=True)
        return said.strip().splitlines()[-1]

    return [Job("tests", "pytest", run)]


@slow_step
def site():
    "the site builds, no link is broken; it works in a browser, if there is one"
    def run(again):
        built = python("docs/nbdocs.py", "site").strip().splitlines()[-1]
        return f"{built}; in a browser: {python('docs/browse.py').strip()}"

    return [Job("site", "site", run)]


@slow_step
def lab():
    "JupyterLab opens the home page and two notebooks, and sliders move, if there is a browser"
    return [Job("lab", "lab", lambda again: python("docs/browse_lab.py").strip())]


@slow_step
def index_test():
    "index.ipynb runs from top to bottom"
    return [notebook_job("index_test", notebooks()[0])]


@slow_step
def notebook_tests():
    "every notebook of nbs/ does"
    return [notebook_job("notebook_tests", fn) for fn in notebooks()[1:]]


# --- running them

def run_quick(name):
    "Run a quick step and say how it went; ends the program where it failed"
    start = time.time()
    try: note = STEPS[name]() or ""
    except Failed as e:
        print(f"{e}\n\nFAILED  {name} ({STEPS[name].__doc__})", flush=True)
        sys.exit(1)
    report(name, time.time() - start, note)


def report(name, seconds, note=""):
    print(f"ok  {name:<16}{seconds:6.1f} s  {note}".rstrip(), flush=True)


def run_job(job, again=False):
    "How `job` went"
    start = time.time()
    try: note, error = job.run(again), ""
    except Failed as e: note, error = "", str(e)
    return Done(job, start, time.time(), note, error)


def in_lanes(jobs):
    "How each of `jobs` went, as they end; a lane that is free takes the next"
    lanes = ThreadPoolExecutor(LANES)
    try:
        for future in as_completed([lanes.submit(run_job, job) for job in jobs]):
            yield future.result()
    finally: lanes.shutdown(cancel_futures=True)   # after Ctrl-C nothing new begins


def summary(ended):
    "What to say of a step whose jobs have all passed"
    notes = [d.note for d in ended if d.note]
    if len(ended) == 1: return " ".join(notes)
    slowest = sorted(ended, key=lambda d: d.begin - d.end)[:3]
    return "slowest " + ", ".join(f"{d.job.name} {d.end - d.begin:.0f} s" for d in slowest)


def gist(error):
    "The line of `error` that says most: pytest's list of what failed, or the last one"
    lines = error.splitlines()
    return ", ".join(l for l in lines if l.startswith("FAILED")) or lines[-1]


def run_slow(names):
    "Run the slow steps side by side; the jobs that failed twice are returned"
    jobs = [job for name in names for job in SLOW[name]()]
    ended = {name: [] for name in names}
    for done in in_lanes(jobs):
        mine = ended[done.job.step]
        mine.append(done)
        n = sum(map(len, ended.values()))
        if sys.stdout.isatty(): print(f"{n} of {len(jobs)}", end="\r", flush=True)
        if done.error: print(f"??  {done.job.name}: {gist(done.error)}; again later", flush=True)
        over = len(mine) == sum(job.step == done.job.step for job in jobs)
        if over and not any(d.error for d in mine):
            span = max(d.end for d in mine) - min(d.begin for d in mine)
            report(done.job.step, span, summary(mine))
    failed = [d.job for mine in ended.values() for d in mine if d.error]
    again = [run_job(job, again=True) for job in failed]
    for d in again:
        if not d.error: report(d.job.name, d.end - d.begin, "at the second try")
    return [d for d in again if d.error]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="step")
    parser.add_argument("--list", action="store_true", help="name the steps")
    args = parser.parse_args()
    unknown = set(args.steps) - STEPS.keys()
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    return args


def main():
    args = arguments()
    if args.list: return print("\n".join(f"{n:<16}{f.__doc__}" for n, f in STEPS.items()))
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    begin = time.time()
    names = args.steps or list(STEPS)
    for name in names:
        if name not in SLOW: run_quick(name)
    failed = run_slow([name for name in names if name in SLOW])
    for worker in WORKERS: worker.shutdown()
    for d in failed: print(f"{d.error}\n\nFAILED  {d.job.name} ({STEPS[d.job.step].__doc__})")
    if failed: sys.exit(1)
    print(f"all {len(names)} steps passed in {time.time() - begin:.0f} s")


if __name__ == "__main__": main()
