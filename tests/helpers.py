"""What tests of several files share: a tiny model, and commands that succeed or are refused"""
from stiv_nb.cli.main import stiv
from stiv_nb.model.dit import ModelConfig

RED = "a red circle moving left"
SMALL = ModelConfig(width=32, depth=1, heads=2, channels=8, text_width=16, positions="both")


def fine(*args):
    "What a command prints; it must succeed"
    code, text = stiv(*args)
    assert code == 0, text
    return text


def check_line(text, says):
    "One clear line of bearable length, no traceback"
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("stiv: ") and len(lines[0]) < 520, text
    assert says in lines[0], lines[0]


def refused(*args, says, code=2):
    "One clear line and the exit code of a mistake"
    got, text = stiv(*args)
    assert got == code, text
    check_line(text, says)
