"""Everything `make test` checks: one line per step, and a stop at the first that fails.

    python docs/check.py               # all steps
    python docs/check.py export style  # only these
    python docs/check.py --list        # what there is

No step changes a tracked file, so it runs on a dirty tree, in a fresh clone, and twice in a row.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STEPS = {}


class Failed(Exception):
    "A step failed; the message is what its tool said, or what to do"


def step(f):
    "Add `f` to the steps, in the order of this file"
    STEPS[f.__name__] = f
    return f


def tool(name, *args, cwd=ROOT, live=False, **env):
    "Run a tool of this environment, quietly unless `live`; its output is returned"
    exe = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if exe is None: raise Failed(f"{name} is not installed: run `make setup`")
    done = subprocess.run([exe, *map(str, args)], cwd=cwd, text=True, stdin=subprocess.DEVNULL, env=os.environ | env,
                          stdout=None if live else subprocess.PIPE, stderr=None if live else subprocess.STDOUT)
    if done.returncode: raise Failed((done.stdout or f"{name} failed, see above").rstrip())
    return done.stdout or ""


def python(*args, **kwargs): return tool(Path(sys.executable).name, *args, **kwargs)


def notebooks():
    "index.ipynb and every notebook of nbs/ that is no scratch"
    return [ROOT / "index.ipynb", *sorted(f for f in (ROOT / "nbs").glob("*.ipynb") if f.name[0] != "_")]


def modules(folder):
    "The Python files below `folder`, as bytes by relative name"
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*.py"))}


@step
def export():
    "the modules of stiv_nb/ are what the notebooks export"
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        shutil.copy(ROOT / "settings.ini", tmp)
        shutil.copytree(ROOT / "stiv_nb", tmp / "stiv_nb", ignore=shutil.ignore_patterns("__pycache__", "assets"))
        shutil.copytree(ROOT / "nbs", tmp / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_*"))
        before = modules(tmp / "stiv_nb")
        tool("nbdev_export", cwd=tmp)
        after = modules(tmp / "stiv_nb")
        stale = [n for n in after if after[n] != before.get(n)]
        if stale: raise Failed(f"run `nbdev_export` and commit: {', '.join(stale)}")
        # nbdev never deletes a module, so one whose notebook is gone would stay for ever
        source = re.compile(rb"File to edit: (\S+\.ipynb)")
        for name, text in after.items():
            m = source.search(text)
            if m and not (tmp / "stiv_nb" / name).parent.joinpath(m[1].decode()).exists():
                raise Failed(f"stiv_nb/{name} comes from {m[1].decode()}, which is gone: delete the module")


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
    "ruff finds no undefined name and no unused variable (rules in pyproject.toml)"
    python("-m", "ruff", "check", "--quiet", "--no-cache")


@step
def notebook_tests():
    "every notebook of nbs/ runs from top to bottom, two at a time"
    share = max(1, (os.cpu_count() or 2) // 2)   # both together with all threads would wait for each other
    out = tool("nbdev_test", "--n_workers", 2, "--timing", OMP_NUM_THREADS=str(share))
    if "Success" not in out: raise Failed(out.strip() or "no notebook was tested")
    return "slowest " + ", ".join(l.removesuffix("ecs") for l in re.findall(r"^\S+\.ipynb: \d+ secs", out, re.M)[:3])


@step
def index_test():
    "index.ipynb runs too"
    out = tool("nbdev_test", "--path", "index.ipynb", "--n_workers", 0)
    if "Success" not in out: raise Failed(out.strip() or "index.ipynb was not tested")


@step
def site():
    "the site builds, no link is broken, nothing is loaded from another host"
    return python("docs/nbdocs.py", "site").strip().splitlines()[-1]


@step
def tests():
    "pytest tests/"
    python("-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", "--color=no", live=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="step")
    parser.add_argument("--list", action="store_true", help="name the steps")
    args = parser.parse_args()
    if args.list: return print("\n".join(f"{n:<16}{f.__doc__}" for n, f in STEPS.items()))
    if unknown := set(args.steps) - STEPS.keys(): parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")}
    names, begin = args.steps or list(STEPS), time.time()
    for i, name in enumerate(names, 1):
        start = time.time()
        try: note = STEPS[name]() or ""
        except Failed as e:
            print(f"{e}\n\nFAILED  {name} ({STEPS[name].__doc__}), step {i} of {len(names)}, after {time.time() - begin:.0f} s", flush=True)
            sys.exit(1)
        print(f"ok  {name:<16}{time.time() - start:6.1f} s  {note}".rstrip(), flush=True)
    print(f"all {len(names)} steps passed in {time.time() - begin:.0f} s")


if __name__ == "__main__": main()
