"""Copies of the notebooks for a machine that has only Jupyter, such as Colab's.

A notebook of the repository expects the installed package and the files beside it. Its copy begins
with a cell that fetches both where they are missing, has links that lead to the site, and lacks
the last cell, which exports modules. The site offers the copies for download; the pages workflow
puts them on the branch `colab`, from where Colab opens them.
"""
import json
import re

BRANCH = "colab"
FETCH = """# Only in this copy: where stiv_nb is not installed, fetch it with its files (minutes)
import os
from importlib.util import find_spec

if find_spec("stiv_nb") is None:
    !git clone --quiet --depth 1 --branch {branch} {url} stiv_course
    %pip install --quiet "./stiv_course[{extras}]"
if os.path.isdir("stiv_course"): os.chdir("{folder}")   # where the page finds its files"""
EXTRAS = "hub,eval,export"   # what some pages need, perhaps deep in the library
EXPORTS = re.compile(r"^nbdev\.nbdev_export\(\)", re.M)


def link(cfg, fn):
    "The address that opens the copy of notebook `fn` in Colab; `cfg` is nbdev's settings"
    repo = cfg.git_url.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{repo}/blob/{BRANCH}/nbs/{fn.name}"


def fetch(cfg, folder):
    "The first cell of a copy; `folder` is the notebook's in the repository"
    inside = "/".join(["stiv_course", folder]).removesuffix("/.")
    return FETCH.format(branch=cfg.branch, url=cfg.git_url, extras=EXTRAS, folder=inside)


def copy(
    text,    # of a notebook
    cfg,     # nbdev's settings
    folder,  # of the notebook in the repository: "nbs", or "." for the home page
    relink,  # text with relative links -> text with addresses
):           # bytes
    "The notebook as it runs anywhere: see the top of this file"
    nb = json.loads(text)
    def source(c): return "".join(c["source"])
    cells = [c for c in nb["cells"] if not EXPORTS.search(source(c))]
    for c in cells:
        if c["cell_type"] == "markdown":
            c["source"] = relink(source(c)).splitlines(keepends=True)
    first = dict(cell_type="code", execution_count=None, id="fetch", metadata={}, outputs=[],
                 source=fetch(cfg, folder).splitlines(keepends=True))
    nb["cells"] = [*cells[:1], first, *cells[1:]]   # behind the title
    return (json.dumps(nb, indent=1, ensure_ascii=False) + "\n").encode()
