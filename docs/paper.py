"""The sections of the paper that a page cites, read from the page itself.

In this project § and App. stand for the STIV paper alone; other papers have "sec. 3.2".
"""
import re

PAPER = "https://arxiv.org/abs/2412.07730"
CITED = re.compile(r"§(\d(?:\.\d)*)|\bApp(?:\.|endix) ([A-Z])\b")
# What there is to cite: a page that names another section has a slip of the pen
SECTIONS = {"2", "2.1", "2.2", "2.3", "2.3.1", "2.3.2", "2.3.3", "2.4", "3", "3.1", "3.5", "5",
            *"ABCDHIJ"}


def sections(
    sources,  # text and code of a page, without what it printed
):            # such as ["2.1", "2.3.1", "B"]
    "The sections that a page cites, in the paper's order; a chapter only where no part of it is"
    cited = {m[1] or m[2] for source in sources for m in CITED.finditer(source)}
    unknown = cited - SECTIONS
    if unknown: raise ValueError(f"the paper has no section {min(unknown)}; see docs/paper.py")
    return sorted(s for s in cited if not any(o.startswith(f"{s}.") for o in cited))


def link(
    cited,  # from `sections`
):          # HTML; empty where nothing is cited
    "The sections as a link to the paper"
    if not cited: return ""
    names = ", ".join(f"§{s}" if s[0].isdigit() else f"App. {s}" for s in cited)
    return f'paper: <a href="{PAPER}">{names}</a>'
