"""Code as the site shows it: each signature with its own, fields as a table; a page's header"""
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent/"docs"))
import colab
import paper
from listings import defined, fields_table, named, narrow, pieces, titles, unlinked
from moving import still, strips

SOURCE = """LIMIT = 3

def _help(): return 1

def first(a): return _help()

@patch
def second(self:Thing):
    return 2
# the end"""

CONFIG = """class Config:
    "What"
    size:int = 3   # pixels; 1|2
    # how it is done:
    # in two ways
    kind:Kind = 'a'
    way:Literal['x', 'y'] = 'x'  # one of two
    free:str|None = None

    def __post_init__(self): pass"""


def test_each_name_has_its_own_code_and_nothing_is_lost():
    cut = pieces(SOURCE, ["Thing.second", "first"])
    assert list(cut) == ["first", "Thing.second"]              # in the order of the code
    assert cut["first"].startswith("LIMIT") and cut["first"].endswith("return _help()")
    assert cut["Thing.second"].endswith("# the end")
    assert "".join("".join(cut.values()).split()) == "".join(SOURCE.split())
    assert pieces("x = 1", ["x"]) == {"x": "x = 1"}
    assert defined(SOURCE) == ["LIMIT", "_help", "first", "second"]


def test_fields_with_their_comments_and_values():
    module = SimpleNamespace(Kind=Literal["a", "b"])
    rows = fields_table(CONFIG, "Config", module).splitlines()[2:]
    assert rows == ["| `size` | `int` | `3` | pixels; 1\\|2 |",
                    "| `kind` | `'a', 'b'` | `'a'` | how it is done: in two ways |",
                    "| `way` | `'x', 'y'` | `'x'` | one of two |",
                    "| `free` | `str|None` | `None` |  |"]
    assert fields_table("def f(): pass", "f", module) is None
    assert fields_table("class Bare:\n    pass", "Bare", module) is None


def test_lines_fit():
    default = "Size(height=32, width=32, channels=3, frames=8)"
    long = f"    size:stiv_nb.data.shapes.Size={default}, # {'x'*60}"
    assert all(len(line) <= 100 for line in narrow(long).split("\n"))
    assert "stiv_nb.data" not in narrow(long)
    assert narrow("a:NoneType=None, # b") == "a=None, # b"
    assert narrow("a:__main__.B=<x.y.B object at 0x7f>") == "a:B=B(…)"
    held = {f"name-{i}": {"lr": 1e-3} for i in range(9)}
    assert narrow(f"    bases:dict={held}, # by name") == "    bases:dict={…}, # by name"


def test_fields_of_a_class_are_none_of_its_instances():
    code = "class A:\n    known:ClassVar[dict] = {}\n    held:list = field(default_factory=list)"
    rows = fields_table(code, "A", SimpleNamespace()).splitlines()[2:]
    assert rows == ["| `held` | `list` | `list()` |  |"]


def test_titles_become_texts_of_pictures():
    assert titles("ax.set_title('How much \\'null\\' wants')") == "How much 'null' wants"
    assert titles('plt.title("The pass \'null\' [0, 1]")') == "The pass 'null' (0, 1)"
    assert titles("show(title='short')") == ""
    assert titles("show(title='original, ' + ', '.join(names))") == ""   # half a title


def test_links_that_only_share_a_name():
    text = "[`change`](recipe.md#change), [`load_it`](a.md), [see [`x_y`](a.md#x_y) here](b.md)"
    assert unlinked(text, {"change"}) == (
        "[`change`](recipe.md#change), [`load_it`](a.md), [see `x_y` here](b.md)")
    assert unlinked(text, set()).startswith("`change`, [`load_it`]")
    cells = [SimpleNamespace(cell_type="code", source="from a import (b,\n    c)\ndef d(): pass")]
    assert named(cells) == {"b", "c", "d"}


def picture(*rows, height=20):
    "PNG: rows of grey frames on white, each (how many, width, gap)"
    page = Image.new("RGB", (200, 10 + 30*len(rows)), "white")
    for y, (n, width, gap) in enumerate(rows):
        for i in range(n):
            page.paste((40, 40, 40), (5 + i*(width + gap), 5 + 30*y, 5 + i*(width + gap) + width,
                                      5 + 30*y + height))
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def test_strips_are_found_in_a_picture():
    assert strips(picture((6, 20, 2), (6, 20, 2))) == [[5, 5, 20, 20, 6, 22.0],
                                                       [5, 35, 20, 20, 6, 22.0]]
    assert strips(picture((2, 20, 2))) == []                   # two pictures are a pair
    assert strips(picture((4, 20, 30))) == []                  # pictures in a wide grid
    assert strips(picture((1, 190, 0))) == []                  # a plot
    assert strips(picture((6, 20, 2), height=9)) == []         # a line of text


def test_a_clip_stands_still():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    shown = Image.open(io.BytesIO(still(out.getvalue())))
    assert shown.format == "PNG" and shown.getpixel((4, 4)) == (255, 0, 0)


def test_sections_are_those_that_a_page_cites():
    cited = paper.sections(["in §2.3 and App. B", '"x (STIV §2.3.2)"', "Appendix A, DiT sec. 3.2"])
    assert cited == ["2.3.2", "A", "B"]                        # not the chapter around a section
    assert paper.link(cited) == f'paper: <a href="{paper.PAPER}">§2.3.2, App. A, App. B</a>'
    assert paper.link([]) == ""
    with pytest.raises(ValueError, match="no section 7.1"): paper.sections(["§7.1"])


SETTINGS = SimpleNamespace(git_url="https://github.com/someone/stiv_nb", branch="main")


def test_a_copy_fetches_the_project_and_leads_home():
    cells = [("markdown", "# Title\n\n> what"), ("code", "#| hide\nimport torch"),
             ("markdown", "a [link](x.ipynb)"), ("code", "import nbdev\nnbdev.nbdev_export()")]
    nb = dict(cells=[dict(cell_type=kind, source=text.splitlines(True)) for kind, text in cells])
    copied = json.loads(colab.copy(json.dumps(nb), SETTINGS, "nbs", str.upper))["cells"]
    title, first, second, link = ["".join(c["source"]) for c in copied]   # nothing exports
    assert title == "# TITLE\n\n> WHAT" and link == "A [LINK](X.IPYNB)"
    assert second == "#| hide\nimport torch"
    assert "git clone --quiet --depth 1 --branch main https://github.com/someone/stiv_nb " in first
    assert '%pip install --quiet "./stiv_course[hub,eval,export]"' in first
    assert 'os.chdir("stiv_course/nbs")' in first
    assert 'os.chdir("stiv_course")' in colab.fetch(SETTINGS, ".")
    assert colab.link(SETTINGS, Path("nbs/200_path.ipynb")) == (
        "https://colab.research.google.com/github/someone/stiv_nb/blob/colab/nbs/200_path.ipynb")


def test_the_header_of_a_page(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])   # a page goes to its own folder
    monkeypatch.setenv("IN_TEST", "1")             # as nbdocs sets it
    import nbdocs
    page = nbdocs.Page(nbdocs.ROOT/"nbs/050_in_one_drawing.ipynb")
    header = page.actions()
    assert header.startswith(f'<p class="nbactions">about {page.minutes} minutes to read · paper: ')
    assert "/blob/colab/nbs/050_in_one_drawing.ipynb\">Open in Colab</a>" in header
    assert header in page.text and not page.text.startswith("---")
    assert page.front() == f"---\ndescription: '{page.description}'\n---\n\n"
    page.description = "`a` and [b](c.ipynb), *so*"
    assert "a and b, so" in page.front()
    copied = json.loads(page.copy())
    text = "".join("".join(c["source"]) for c in copied["cells"] if c["cell_type"] == "markdown")
    assert f"]({nbdocs.DOC_URL}" in text and f"]({nbdocs.RAW_URL}nbs/drawings/" in text
    assert "](drawings/" not in text and ".ipynb)" not in text


def test_a_page_as_plain_markdown(monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    import nbdocs
    page = ('<p class="nbactions">about</p>\n# T\n\n[`f`](a.md#f), [report](results/r.html)\n\n'
            '<div class="drawing"><svg role="img"> <title>What it is</title> <g/></svg></div>\n\n'
            '### F {#f-class}\n\n![alt](t_files/o.png){data-still="t_files/s.png"} `[x](y.md)`\n'
            '```text\n[x](y.md) {#z}\n```\n<script src="assets/embed.js"></script>\n')
    assert nbdocs.plain(page) == (
        "# T\n\n[`f`](a.txt#f), [report](../results/r.html)\n\n*What it is*\n\n"
        "### F\n\n![alt](../t_files/o.png) `[x](y.md)`\n```text\n[x](y.md) {#z}\n```\n")


def test_a_class_and_a_function_of_one_name_have_two_ids(monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    import nbdocs
    ids = {"a.md": {"plan", "plan-class", "plan.cost"}}
    text = "[`Plan`](a.md#plan), [`plan`](a.md#plan), [`Plan.cost`](a.md#plan.cost)"
    assert nbdocs.land(text, ids) == text.replace("a.md#plan)", "a.md#plan-class)", 1)


def test_figures_with_controls_have_a_picture_where_there_are_none():
    view, state = (f"application/vnd.jupyter.widget-{k}+json" for k in ("view", "state"))
    root, n = Path(__file__).parents[1], 0
    for fn in root.glob("nbs/[0-9]*.ipynb"):
        nb = json.loads(fn.read_text(encoding="utf-8"))
        held = nb["metadata"].get("widgets", {}).get(state, {}).get("state", {})
        if not any(w["model_name"] == "ImageModel" for w in held.values()): continue
        for c in nb["cells"]:
            for o in c.get("outputs", []):
                if view not in o.get("data", {}): continue
                n += 1
                assert "image/png" in o["data"], fn.name
                assert o["data"][view]["model_id"] in held, fn.name
        kilobytes = len(json.dumps(held))/1000
        assert kilobytes < 600, f"{fn.name} holds {kilobytes:.0f} kB of widgets"
    assert n >= 12
