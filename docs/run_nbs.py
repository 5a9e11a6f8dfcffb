"""Run notebooks in a real kernel and save their outputs and widget state.

    python docs/run_nbs.py                              # every notebook that has saved outputs
    python docs/run_nbs.py nbs/110_shapes.ipynb         # this one
    python docs/run_nbs.py --flags slow nbs/670_loop.ipynb   # its `#| slow` cells too

As nbdev_test does, it skips `#| eval: false` cells and those with a flag of settings.ini's
tst_flags; a skipped cell keeps the outputs it has. A second run on the same machine gives the same
file.
"""
import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from execnb.nbio import dict2nb
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
LINKS = ("LinkModel", "DirectionalLinkModel")


class Client(NotebookClient):
    "A notebook client that knows nbdev's directives"
    flags = frozenset()  # cells with one of these are skipped

    def skips(self, cell):
        "Whether `cell` is left as it is"
        if cell.cell_type != "code" or "nbdev_export(" in cell.source: return True
        nb = dict2nb({"cells": [dict(cell)], "metadata": {}})
        found = extract_directives(nb.cells[0], remove=False)
        return found.get("eval:", [""])[:1] == ["false"] or bool(self.flags & found.keys())

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if self.skips(cell): return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def drop_stderr(cell):
    "Remove warnings and progress bars from the outputs of `cell`; they are for whoever runs it"
    noise = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
    for o in noise: print(o.text, end="", file=sys.stderr)
    cell.outputs = [o for o in cell.outputs if o not in noise]


def seen(state, roots):
    "The widgets that `roots` are made of, and the links between them, out of all that were made"
    found, left = set(), [*roots]
    while left:
        key = left.pop()
        if key in found: continue
        found.add(key)
        left += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[key]["state"]))
    for key, widget in state.items():
        ends = re.findall(r"IPY_MODEL_(\w+)", json.dumps(widget["state"]))
        if widget["model_name"] in LINKS and found.issuperset(ends): found.add(key)
    for widget in state.values():   # most of what a layout may say, it does not
        if widget["model_name"] != "LayoutModel": continue
        widget["state"] = {k: v for k, v in widget["state"].items() if v is not None}
    return {key: widget for key, widget in state.items() if key in found}


def run(fn, flags, timeout):
    "Execute `fn` and save it, with widget ids numbered in the order of creation"
    start = time.time()
    nb = nbformat.read(fn, 4)
    client = Client(nb, timeout=timeout, kernel_name="python3", coalesce_streams=True,
                    resources={"metadata": {"path": str(fn.parent)}},
                    extra_arguments=["--log-level=ERROR"])  # ipykernel 7 warns about its TCP ports
    client.flags = flags
    nb.metadata.pop("widgets", None)
    for c in nb.cells:
        if c.cell_type != "code": continue
        # a widget needs the state of the run that made it, so a skipped cell can't keep one
        kept = c.outputs if client.skips(c) else []
        c.outputs = [o for o in kept if VIEW not in o.get("data", {})]
    client.execute()
    for c in nb.cells:
        c.metadata.pop("execution", None)
        if c.cell_type == "code": drop_stderr(c)
    shown = [o for c in nb.cells for o in c.get("outputs", [])]
    for o in shown:   # controls that do nothing without a kernel: their picture stays
        if o.get("metadata", {}).get("live"): o["data"].pop(VIEW, None)
    outputs = [o.get("data", {}) for o in shown]
    roots = [data[VIEW]["model_id"] for data in outputs if VIEW in data]
    if not roots: nb.metadata.pop("widgets", None)
    else:
        held = nb.metadata["widgets"][STATE]
        held["state"] = seen(held["state"], roots)
        text = nbformat.writes(nb)
        for i, key in enumerate(held["state"]): text = text.replace(key, f"{i:032x}")
        nb = nbformat.reads(text, 4)
    nbformat.write(nb, fn)
    nbdev_clean(str(fn))
    print(f"{fn}: {time.time() - start:.1f} s, {fn.stat().st_size / 1e3:.0f} kB", flush=True)


def has_outputs(fn): return any(c.get("outputs") for c in nbformat.read(fn, 4).cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nbs", nargs="*", type=Path,
                        help="notebooks; none = all that have saved outputs")
    parser.add_argument("--flags", default="",
                        help="flags to run although settings.ini's tst_flags names them")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one cell")
    args = parser.parse_args()
    # one thread count everywhere: sums in another order change the last digits of what is printed
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    root = get_config().config_path
    every = [root / "index.ipynb", *sorted(map(Path, nbglob()))]
    nbs = args.nbs or [f for f in every if f.exists() and has_outputs(f)]
    missing = [str(f) for f in nbs if not f.exists()]
    if missing: sys.exit(f"no such notebook: {', '.join(missing)}")
    flags = frozenset(get_config().tst_flags.split()) - set(args.flags.split())
    for fn in nbs:
        if fn.resolve().is_relative_to(Path.cwd()): fn = fn.resolve().relative_to(Path.cwd())
        try: run(fn, flags, args.timeout)
        except CellExecutionError as e: sys.exit(f"{fn} failed and was not saved:\n{e}")


if __name__ == "__main__": main()
