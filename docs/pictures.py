"""Which cells draw without a saved picture.

    python docs/pictures.py                  # all notebooks that have saved outputs
    python docs/pictures.py nbs/100_video.ipynb

A reader of the site sees what is saved, so a shown cell that draws and has no picture is a hole in
its page. The cells are read, not run: a call counts where running the cell reaches it, also through
a function that the notebook defines in a cell it shows.
"""
import argparse
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r"^\s*#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(\S*)", re.M)
UNSHOWN = {"hide", "export", "exports", "exporti", "default_exp", "hide_output"}
DRAWERS = {"show_frames", "LivePlot"}      # functions of stiv_nb that draw when called
CLIPS = {"Video", "read_video"}            # what they return is drawn as a cell's last expression
PIPES = {"load", "Pipeline", "from_pretrained"}   # what they return makes clips
FIGURES = {"subplots", "figure", "plot", "imshow", "hist", "bar", "scatter", "semilogy", "loglog"}
VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple)   # as a last line they show something
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def source(cell):
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def directives(cell):
    "The nbdev directives of a cell, as name: value"
    return dict(DIRECTIVE.findall(source(cell)))


def shown(cell):
    "Whether a page shows the output that running this cell gives"
    if cell["cell_type"] != "code": return False
    found = directives(cell)
    off = [found.get(name) == "false" for name in ("eval", "output", "include")]
    return not UNSHOWN & found.keys() and not any(off)


def parse(text):
    "The statements of a cell without its magics; none where it is not Python"
    try: return ast.parse(re.sub(r"^\s*[%!].*$", "", text, flags=re.M)).body
    except SyntaxError: return []


def reached(nodes):
    "Every node that running `nodes` reaches: not what only stands inside a function or a lambda"
    for node in nodes:
        if isinstance(node, DEFS): continue
        yield node
        yield from reached(ast.iter_child_nodes(node))


def called(nodes):
    "The name of every function called in `nodes`, with its owner: ('plt', 'subplots')"
    calls = [n.func for n in reached(nodes) if isinstance(n, ast.Call)]
    for f in calls:
        if isinstance(f, ast.Name): yield "", f.id
        elif isinstance(f, ast.Attribute): yield ast.unparse(f.value), f.attr


def draws(nodes, helpers):
    "Whether running `nodes` draws; `helpers` are the notebook's own functions that do"
    names = list(called(nodes))
    if ("plt", "close") in names: return False   # drawn for a file, or for a test
    figures = {name for owner, name in names if owner == "plt" or name == "imshow"} & FIGURES
    functions = {name for owner, name in names if not owner} & (DRAWERS | helpers)
    return bool(figures or functions)


def shown_value(cell):
    "The expression whose value Jupyter shows under `cell`, None where it shows none"
    body = parse(source(cell))
    silent = source(cell).rstrip().endswith(";")
    ends = body and isinstance(body[-1], ast.Expr) and not silent
    return body[-1].value if ends else None


def function_of(value):
    "The last part of the name of the function that `value` calls, None where it is not a call"
    return ast.unparse(value.func).split(".")[-1] if isinstance(value, ast.Call) else None


class Reader:
    "Goes through a notebook's cells and knows its functions that draw, its pipelines and clips"
    def __init__(self):
        self.helpers = set()
        self.pipes = set()
        self.clips = set()

    def makes_clip(self, value):
        "Whether the expression `value` is a clip, as far as reading tells"
        if isinstance(value, ast.Name): return value.id in self.clips
        return function_of(value) in CLIPS | self.pipes

    def note(self, body):
        "Learn from a cell's statements"
        for node in body:
            if isinstance(node, ast.FunctionDef):
                self.keep(self.helpers, {node.name}, draws(node.body, self.helpers))
            if isinstance(node, ast.Assign):
                names = {t.id for t in node.targets if isinstance(t, ast.Name)}
                self.keep(self.clips, names, self.makes_clip(node.value))
                self.keep(self.pipes, names, function_of(node.value) in PIPES)

    @staticmethod
    def keep(known, names, are_so):
        "Put `names` into the set `known`, or take them out where they now mean something else"
        if are_so: known |= names
        else: known -= names

    def wants(self, cell):
        "Whether running `cell` draws: a figure, or a clip as its last expression"
        body = parse(source(cell))
        self.note(body)
        return draws(body, self.helpers) or self.makes_clip(shown_value(cell))


def is_picture(output):
    "Whether a saved output is something to look at"
    data = output.get("data", {})
    if any(re.match("image/|video/|.*widget-view", mime) for mime in data): return True
    html = "".join(data.get("text/html", []))
    return bool(re.search(r"<(img|video|svg)\b", html))


def missing(nb):
    "Numbers and first lines of the shown cells that draw and have no saved picture"
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    if not any(c["outputs"] for c in code): return []
    reader = Reader()
    found = []
    for i, cell in enumerate(nb["cells"]):
        if cell["cell_type"] != "code": continue
        exported = directives(cell).keys() & {"export", "exports", "exporti"}
        if exported: continue
        draws_one = reader.wants(cell)
        holds = isinstance(shown_value(cell), VALUES) and not cell["outputs"]   # it was never run
        hole = holds or draws_one and not any(map(is_picture, cell["outputs"]))
        if hole and shown(cell):
            lines = [l for l in source(cell).splitlines() if l.strip() and not l.startswith("#")]
            found.append((i, lines[0]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nbs", nargs="*", type=Path, help="notebooks; none = all")
    args = parser.parse_args()
    every = [ROOT / "index.ipynb", *sorted((ROOT / "nbs").glob("[!_]*.ipynb"))]
    said = []
    for fn in args.nbs or every:
        nb = json.loads(fn.read_text(encoding="utf-8"))
        said += [f"{fn.name}, cell {i}: {line}" for i, line in missing(nb)]
    if said: sys.exit("\n".join(["these cells draw and have no saved picture:", *said]))


if __name__ == "__main__": main()
