"""Code as the site shows it: each signature with its own, fields as a table"""
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

sys.path.append(str(Path(__file__).parent.parent/"docs"))
from listings import defined, fields_table, narrow, pieces

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
