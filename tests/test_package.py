"""What no single notebook can check: the package as a whole, and the notebooks as a set."""
import configparser
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import stiv_nb

ROOT = Path(__file__).parents[1]
NBS = sorted(f for f in (ROOT / "nbs").glob("*.ipynb") if f.name[0] != "_")
ALL_NBS = [ROOT / "index.ipynb", *NBS]
MODULES = sorted(m.name for m in pkgutil.walk_packages(stiv_nb.__path__, "stiv_nb.") if not m.name.endswith("__main__"))
EXTRAS = {"diffusers", "transformers", "scenedetect", "cv2", "ray", "torchmetrics", "skimage", "tensorboard"}


def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def fresh(code):
    "What `code` prints as JSON in a new Python"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cells(fn, kind): return [c for c in json.loads(fn.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_import_is_quick():
    "Best of three, so that a busy machine does not fail it"
    code = "import json, time, torch; a = time.perf_counter(); import stiv_nb; print(json.dumps(time.perf_counter() - a))"
    assert min(fresh(code) for _ in range(3)) < 1


def test_import_is_lean():
    "`import stiv_nb` loads nothing that only some readers need"
    heavy = EXTRAS | {"datasets", "matplotlib", "av", "ipywidgets", "IPython", "nbdev", "huggingface_hub", "tyro"}
    loaded = fresh("import json, sys, stiv_nb; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))")
    assert not heavy & set(loaded)


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name):
    mod = import_module(name)
    assert [n for n in getattr(mod, "__all__", []) if not hasattr(mod, n)] == []


def test_modules_need_no_extra():
    "Every module imports where only the core requirements are installed"
    names = [m for m in MODULES if not m.endswith("_modidx")]
    code = f"""
import importlib, json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {EXTRAS!r}: raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
for name in {names!r}: importlib.import_module(name)
print('true')"""
    assert fresh(code) is True


def test_settings():
    "The version is said once, and every direct requirement is pinned to what is installed here"
    cfg = settings()
    assert stiv_nb.__version__ == cfg["version"] == version(cfg["lib_name"])
    assert re.search(rf"^version: {re.escape(cfg['version'])}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    needed = {re.match(r"[\w-]+", r)[0] for key in ("requirements", "dev_requirements") for r in cfg[key].split()}
    assert needed <= pins.keys()
    assert {n: version(n).split("+")[0] for n in needed} == {n: pins[n] for n in needed}


def test_notebook_names():
    "Two digits, a name, and no number twice"
    assert [f.name for f in NBS if not re.fullmatch(r"[1-9]\d_[a-z0-9_]+\.ipynb", f.name)] == []
    numbers = [f.name[:2] for f in NBS]
    assert sorted(set(numbers)) == numbers


@pytest.mark.parametrize("fn", ALL_NBS, ids=lambda f: f.stem)
def test_notebook(fn):
    "A title cell that holds nothing else, no saved error, no cell id twice"
    title = "".join(cells(fn, "markdown")[0]["source"])
    assert re.fullmatch(r"# .+\n\n> .+", title.strip()), "the first cell is '# Title', an empty line, '> subtitle'"
    outputs = [o for c in cells(fn, "code") for o in c["outputs"]]
    assert [o["evalue"] for o in outputs if o["output_type"] == "error"] == []
    ids = [c["id"] for kind in ("markdown", "code") for c in cells(fn, kind)]
    assert len(set(ids)) == len(ids)


def tracked():
    "The text files of the project, as git lists them (new ones too), vendored ones left out"
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip("not a git checkout")
    text = {".py", ".ipynb", ".md", ".ini", ".toml", ".txt", ".yml", ".yaml", ".json", ".cff", ".js", ".css", ""}
    return [f for f in map(ROOT.joinpath, done.stdout.splitlines()) if f.suffix in text and f.is_file()
            and "katex" not in f.parts and f.name != "embed.js"]


def test_no_machine_paths():
    "No file names a folder of the machine it was written on"
    path = re.compile(r"(?<![\w.+/~$\\}-])/(?:work|root|tmp|home/\w+|Users/\w+|mnt/\w+)/\w")
    found = [f"{f.relative_to(ROOT)}: {m[0]}" for f in tracked() for m in path.finditer(f.read_text(encoding="utf-8", errors="ignore"))]
    assert not found
