"""What no single notebook can check: the package as a whole, and the notebooks as a set."""
import ast
import configparser
import importlib.util
import io
import json
import pkgutil
import re
import subprocess
import sys
import tokenize
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import stiv_nb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stiv_nb"
NBS = sorted(f for f in (ROOT / "nbs").glob("*.ipynb") if f.name[0] != "_")
ALL_NBS = [ROOT / "index.ipynb", *NBS]
MODULES = sorted(m.name for m in pkgutil.walk_packages(stiv_nb.__path__, "stiv_nb.")
                 if not m.name.endswith("__main__"))
EXTRAS = {"diffusers", "transformers", "scenedetect", "cv2", "ray", "torchmetrics", "skimage",
          "tensorboard"}

# A room imports only itself and the rooms before it.
ROOMS = ["core", "data", "codec", "flow", "model", "stiv", "train", "eval", "apps", "lab", "engine",
         "bench", "cli"]
MOST_LINES = 250


def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def fresh(code):
    "What `code` prints as JSON in a new Python"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cells(fn, kind):
    found = json.loads(fn.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if c["cell_type"] == kind]


def source(cell): return "".join(cell["source"])


def test_import_is_quick():
    "Best of three, so that a busy machine does not fail it"
    code = """
import json, time, torch
a = time.perf_counter()
import stiv_nb
print(json.dumps(time.perf_counter() - a))"""
    assert min(fresh(code) for _ in range(3)) < 1


def test_import_is_lean():
    "`import stiv_nb` loads nothing that only some readers need"
    heavy = EXTRAS | {"datasets", "matplotlib", "av", "ipywidgets", "IPython", "nbdev",
                      "huggingface_hub", "tyro"}
    loaded = fresh("import json, sys, stiv_nb; print(json.dumps(list(sys.modules)))")
    assert not heavy & {name.split(".")[0] for name in loaded}


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
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(cfg['version'])}$", cited, re.M)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    direct = cfg["requirements"].split() + cfg["dev_requirements"].split()
    needed = {re.match(r"[\w-]+", r)[0] for r in direct}
    assert needed <= pins.keys()
    assert {n: version(n).split("+")[0] for n in needed} == {n: pins[n] for n in needed}


@pytest.mark.parametrize("fn", ALL_NBS, ids=lambda f: f.stem)
def test_notebook(fn):
    "A title cell that holds nothing else, no saved error, no cell id twice"
    title = source(cells(fn, "markdown")[0]).strip()
    assert re.fullmatch(r"# .+\n\n> .+", title), "first '# Title', then '> subtitle'"
    outputs = [o for c in cells(fn, "code") for o in c["outputs"]]
    assert [o["evalue"] for o in outputs if o["output_type"] == "error"] == []
    ids = [c["id"] for kind in ("markdown", "code") for c in cells(fn, kind)]
    assert len(set(ids)) == len(ids)


def tracked():
    "The text files of the project, as git lists them (new ones too), vendored ones left out"
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode: pytest.skip("not a git checkout")
    text = {".py", ".ipynb", ".md", ".ini", ".toml", ".txt", ".yml", ".yaml", ".json", ".cff",
            ".js", ".css", ""}
    files = map(ROOT.joinpath, done.stdout.splitlines())
    return [f for f in files if f.suffix in text and f.is_file()
            and "katex" not in f.parts and f.name != "embed.js"]


def test_no_machine_paths():
    "No file names a folder of the machine it was written on"
    path = re.compile(r"(?<![\w.+/~$\\}-])/(?:work|root|tmp|home/\w+|Users/\w+|mnt/\w+)/\w")
    found = []
    for f in tracked():
        text = f.read_text(encoding="utf-8", errors="ignore")
        found += [f"{f.relative_to(ROOT)}: {m[0]}" for m in path.finditer(text)]
    assert not found


# --- the structure that CONTRIBUTING.md describes

def parse(text):
    "The syntax tree of a module or a cell, without its magics"
    return ast.parse(re.sub(r"^\s*[%!].*$", "", text, flags=re.M))


def imports(tree, package):
    "Every dotted name that `tree` imports, inside functions too; `package` is where it stands"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else None
            start = ".".join(filter(None, [above, node.module]))
            yield from (f"{start}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if node.args and isinstance(node.args[0], ast.Constant): yield node.args[0].value


def home(name, known):
    "The module among `known` that the import of `name` loads; `name` may be something inside it"
    parts = name.split(".")
    ways = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((way for way in ways if way in known), None)


def modules():
    "Modules of the rooms by dotted name: the file of each"
    files = sorted(f for f in PACKAGE.rglob("*.py") if f.parent != PACKAGE and f.stem != "__init__")
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


def exporters():
    "Notebooks by the dotted name of the module that they export"
    found = {}
    for fn in NBS:
        for c in cells(fn, "code"):
            if m := re.search(r"^#\| *default_exp +(\S+)", source(c), re.M):
                found[f"stiv_nb.{m[1]}"] = fn
    return found


def number(fn): return int(fn.name[:3])


# What `import stiv_nb` offers, and the modules that it comes from.
FRONT_DOOR = {"load": "stiv_nb.stiv.pipeline", "Pipeline": "stiv_nb.stiv.pipeline",
              "Video": "stiv_nb.data.video"}


def through_the_front_door(tree):
    "The modules behind `stiv_nb.load` and its like in `tree`"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "stiv_nb":
            if node.attr in FRONT_DOOR: yield FRONT_DOOR[node.attr]


def test_imports_reads_every_kind():
    code = "import a.b\nfrom . import c\ndef f():\n    from ..d.e import g\n    import_module('h')"
    assert [*imports(parse(code), "p.q")] == ["a.b", "p.q.c", "p.d.e.g", "h"]
    assert home("p.d.e.g", {"p.d", "p.d.e"}) == "p.d.e"
    assert home("x.y", {"p"}) is None


def test_rooms_import_only_rooms_before_them():
    "No circle and no backward arrow; `import stiv_nb` leads to `stiv.pipeline`, so it is one too"
    bad = []
    for name, f in modules().items():
        package, _, _ = name.rpartition(".")
        room = name.split(".")[1]
        assert room in ROOMS, f"{name}: no such room; rooms are {', '.join(ROOMS)}"
        for other in imports(parse(f.read_text(encoding="utf-8")), package):
            parts = other.split(".")
            if parts[0] != "stiv_nb" or other.endswith("__version__"): continue
            if parts[1:2] == [] or parts[1] not in ROOMS:
                bad.append(f"{name} imports {other}, which is in no room")
            elif ROOMS.index(parts[1]) > ROOMS.index(room):
                bad.append(f"{name} imports {other}, and {parts[1]} comes after {room}")
    assert not bad, "\n".join(bad)


def test_numbers_are_dependency_order():
    """A notebook, its tests too, imports its own module and those of notebooks with lower numbers.

    A page that exports nothing shows what users do, so it may enter by `import stiv_nb`.
    """
    by_module = exporters()
    bad = []
    for fn in NBS:
        exports = fn in by_module.values()
        for c in cells(fn, "code"):
            tree = parse(source(c))
            loaded = [*imports(tree, ""), *(through_the_front_door(tree) if exports else ())]
            for name in loaded:
                found = by_module.get(home(name, by_module))
                if found and number(found) > number(fn):
                    bad.append(f"{fn.name} imports {name} of {found.name}")
    assert not bad, "\n".join(dict.fromkeys(bad))


def test_notebook_names():
    "Three digits and the last part of the module's name, and no number twice"
    assert [f.name for f in NBS if not re.fullmatch(r"\d{3}_[a-z0-9_]+\.ipynb", f.name)] == []
    numbers = [number(f) for f in NBS]
    assert sorted(set(numbers)) == numbers
    other = {f.name: m for m, f in exporters().items() if f.stem[4:] != m.rpartition(".")[2]}
    assert other == {}


def test_rooms_follow_the_numbers():
    "A higher number never leads back to an earlier room, and CONTRIBUTING.md draws the same rooms"
    rooms = [m.split(".")[1] for m, _ in sorted(exporters().items(), key=lambda item: item[1])]
    assert rooms == sorted(rooms, key=ROOMS.index)
    drawn = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^  (\w+) .* \d{3}-\d{3}$", drawn, re.M) == ROOMS


def docment_lines(tree, lines):
    "Numbers of the lines of signatures that hold one parameter, or the result, and its comment"
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        last = node.body[0].lineno - 1
        for n in range(node.lineno + 1, last + 1):
            if "#" in lines[n-1]: yield n


def code_lines(text):
    "How many lines of `text` hold code: not blank, no comment, not a parameter with its docment"
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENDMARKER}
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped: held |= {*range(token.start[0], token.end[0] + 1)}
    return len(held - {*docment_lines(ast.parse(text), text.splitlines())})


def test_code_lines():
    signature = "def f(\n    a:int, # c\n    b=2,   # d\n):\n"   # counts as two lines
    assert code_lines(f"# a comment\nx = 1   # b\n\n{signature}    return [\n        a]\n") == 5


@pytest.mark.parametrize("name", modules())
def test_modules_are_short(name):
    "A module that grows beyond this holds two ideas: split its notebook"
    n = code_lines(modules()[name].read_text(encoding="utf-8"))
    assert n <= MOST_LINES, f"{name} has {n} lines of code, more than {MOST_LINES}"


# Words that this project once made up, and the field's own: the first must not come back.
PRIVATE = {
    r"\bhelpings?\b": "micro-batch",
    r"\bmy_slots\b": "the slots of a rank",
    r"\bplace_weights\b": "what it does, in the words of the field",
    r"\bwrite_aside\b": "atomic_write",
    r"\bshall\b": "should, must, or will",
    r"\bhow-manieth\b": "index, or number",
}


def texts(fn):
    "The pieces of text of a file: all of it, or a notebook's cells with what they printed"
    if fn.suffix != ".ipynb":
        yield "", fn.read_text(encoding="utf-8", errors="ignore")
        return
    for i, c in enumerate(json.loads(fn.read_text(encoding="utf-8"))["cells"]):
        yield f", cell {i}", source(c)
        for o in c.get("outputs", []):
            said = o.get("text", o.get("data", {}).get("text/plain", ""))
            yield f", output of cell {i}", "".join(said)


def names(code):
    "Names and whole strings of a piece of code, none where it is not Python"
    try: tokens = [*tokenize.generate_tokens(io.StringIO(code).readline)]
    except (tokenize.TokenError, IndentationError, SyntaxError): return set()
    kinds = {tokenize.NAME, tokenize.STRING}
    return {t.string.strip("rbf").strip("'\"") for t in tokens if t.type in kinds}


def private_words(fn):
    "Each private word in `fn`, with the place and the word to use"
    where = fn.relative_to(ROOT)
    code = {source(c) for c in cells(fn, "code")} if fn.suffix == ".ipynb" else set()
    for at, text in texts(fn):
        for word, better in PRIVATE.items():
            for m in re.finditer(word, text, re.I): yield f"{where}{at}: {m[0]!r}; say {better}"
        if (fn.suffix == ".py" or text in code) and "usual" in names(text):
            yield f"{where}{at}: the name 'usual'; say what it is, a running mean"


def test_no_private_words():
    "Code and pages speak the language of the field"
    pages = [f for f in tracked() if f.suffix in {".py", ".ipynb", ".md"} and f != Path(__file__)]
    found = [word for f in pages for word in private_words(f)]
    assert not found, "\n".join(found)


# --- docs/pictures.py

def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs/pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PNG = {"output_type": "display_data", "data": {"image/png": ""}}
DRAWING = [
    "fig, ax = plt.subplots()",
    "for i in range(3): show_frames(clips[i])",
    "ax.imshow(x);",
    "train(recipe, report=LivePlot())",
    "def draw(): plt.plot(x)\ndraw()",
    "pipe = stiv_nb.load('toy')\nvideo = pipe('a red circle')\nvideo",
    "Video(frames)",
]
SILENT = [
    "def draw(): plt.plot(x)",
    "test_fail(lambda: show_frames(x))",
    "fig = show_frames(x)\nplt.close(fig)",
    "video = Video(frames)",
    "Video(frames);",
    "print('plt.subplots()')",
    "#| hide\nplt.plot(x)",
    "#| eval: false\nplt.plot(x)",
    "#| hide\n#| eval: false\nplt.plot(x)",
    "#| export\ndef f(): plt.plot(x)\nplt.plot(x)",
]


@pytest.mark.parametrize("text", DRAWING + SILENT)
def test_a_missing_picture_is_found(text):
    "A shown cell that draws needs its picture, where the notebook was run at all"
    def notebook(outputs, elsewhere=(PNG,)):
        drawn = {"cell_type": "code", "source": text, "outputs": outputs}
        other = {"cell_type": "code", "source": "x = 1", "outputs": [*elsewhere]}
        return {"cells": [other, drawn]}
    missing = pictures().missing
    assert bool(missing(notebook([]))) == (text in DRAWING)
    assert missing(notebook([PNG])) == []
    assert missing(notebook([], elsewhere=())) == []
