"""README.md and the site, made from the notebooks and their saved outputs.

    python docs/nbdocs.py readme          # write README.md and index_files/ from index.ipynb
    python docs/nbdocs.py readme --check  # only say whether they are up to date
    python docs/nbdocs.py site            # build _site/site
    python docs/nbdocs.py minutes         # write results/reading.json, for the teachers' plan

nbdev's processors do what they do for its own sites: directives, front matter, show_doc, links of
`backticked` names. The Markdown is written here; Zensical makes a site of it that works offline.
"""
import argparse
import ast
import base64
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

os.environ["IN_TEST"] = "1"  # so that nbdev_export() in a notebook's last cell does nothing

import yaml
from execnb.nbio import read_nb
from fastcore.basics import AttrDict
from nbdev.config import get_config
from nbdev import processors
from nbdev.doclinks import nbglob
from nbdev.processors import FilterDefaults, exec_show_docs, rm_export

import colab
import drawings
import paper
from listings import (
    SYMBOL, WIDTH, defined, fields_table, named, narrow, pieces, titles, unlinked)
from moving import still, strips
from schemes import dark_twin, in_schemes, pictures_in, twin_name

def_names = processors._def_names


def in_order(*args):
    "Names of a cell; nbdev inserts them behind it one by one, so the last would stand first"
    return def_names(*args)[::-1]


processors._def_names = in_order

CFG = get_config()
ROOT = CFG.config_path
HERE = Path(__file__).parent
DOC_URL = f"{CFG.doc_host}{CFG.doc_baseurl}/"    # what nbdev's links of symbols start with
BLOB_URL = f"{CFG.git_url}/blob/{CFG.branch}/"   # files that are no page of the site
RAW_URL = f"{CFG.git_url}/raw/{CFG.branch}/"     # pictures, as files
READING = ROOT / "results/reading.json"
SLACK = 5   # minutes by which a page may differ from what is kept
# Two shelves, their parts, and the numbers of a part's pages. The course is a path from top to
# bottom; the handbook holds what one looks up, and what the course leaves aside.
COURSE = {
    "Start here": [50],
    "See": [100, 110],
    "Flow": [200, 220, 225, 230, 240],
    "Codec, words and judge": [180, 185, 120],
    "The model": [290, 300, 305, 310, 320, 330, 340, 350, 360, 380],
    "STIV": [500, 510, 520, 530, 540, 541, 545, 550],
    "Training": [595, 600, 605, 610, 620, 660, 670],
    "Judged by samples": [700, 710, 720, 730, 740, 742],
    "Applications": [750, 772, 775, 780, 782, 784, 786, 787, 788, 790, 795],
    "Lab": [800, 825, 827, 840],
}
HANDBOOK = {
    "Core": [10, 20, 30, 31, 35, 36, 40, 45, 46, 47, 48, 49],
    "Toy worlds": [104, 107, 108, 109, 111, 122, 124, 126],
    "Read from pixels": [113, 115, 116, 118, 119],
    "Files and streams": [95, 99, 101, 130, 132, 135, 140, 142, 143, 190, 192, 537],
    "Rivals of the recipe": [205, 232, 235, 335, 525, 532, 597, 598],
    "Counting and planning": [365, 690],
    "Setting up a run": [535, 599, 602, 652, 654, 655, 657, 658, 665],
    "Training at scale": [590, 622, 625, 630, 632, 640, 642, 645, 648, 650],
    "Measuring": [702, 704, 705, 706, 708, 712, 715, 778],
    "Public metrics": [707, 709, 703, 711, 713],
    "The report": [752, 755, 757, 760, 770],
    "Shipped models": [798],
    "Running arms": [803, 804, 805, 808, 809, 810, 812, 815, 820, 822, 830],
    "Data engine": [850, 851, 852, 854, 856, 857, 858, 860, 862, 864, 866, 868, 869, 870, 875, 880],
    "Benchmarks": [900, 910, 920, 925, 930, 935, 940],
    "Command line": [950, 960, 962, 965, 966, 967, 970, 975, 977, 978, 979, 980, 990],
    "Teaching": [52],
    "When something goes wrong": [993],
}
SHELVES = {"Course": COURSE, "Handbook": HANDBOOK}   # in the order of the sidebar
MEDIA = {
    "image/gif": "gif",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
HELD = re.compile(rf'\n<script type="{re.escape(STATE)}">.*</script>')   # what widgets hold

OPTION = re.compile(r"^\s*#\|\s*([\w-]+)\s*:\s*(.*?)\s*$")
SOURCE_LINK = re.compile(r"\{target=\"_blank\"[^}]*\}")
DATA_URI = re.compile(r'src=(["\'])data:([\w/+.-]+);base64,([^"\']+)\1')
LINK = re.compile(r"(\]\(|\b(?:href|src)=[\"'])(?![a-z]+:|#|/)([^)\s\"'#]+)(#[^)\s\"']*)?")
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)
FENCE = re.compile(r"^(\s*)(```+)[^\n]*\n.*?^\1\2$", re.M | re.S)
BLOCK = re.compile(r"^( *)(```+)(\w*)\n(.*?)^\1\2$", re.M | re.S)   # indent, ticks, language, code
TEST = re.compile(r"^\s*(assert |test_\w+\()", re.M)
STRIPS = re.compile(r"\b(show_frames|explorer)\(")   # what draws film strips
DRAWING = re.compile(r"!\[([^\]]*)\]\((drawings/\w+\.svg|nbs/drawings/\w+\.svg)\)")
DETAILS = re.compile(r"<details><summary>(.*?)</summary>\n?(.*?)\n?</details>", re.S)
HEADING_ID = re.compile(r'^(?:#+ .*?\{#|<a id=")([\w.-]+)["}]', re.M)
SVG = re.compile(r"<svg\b.*?(?:<title>(.*?)</title>.*?)?</svg>", re.S)
# what only the site wants of a page: its header, scripts, boxes, attributes of links and headings
SITE_ONLY = re.compile(r'<p class="nbactions">.*?</p>\n|<(script|style)\b.*?</\1>\n?|</?div\b[^>]*>'
                       r'|<a id="[\w.]+"></a>|(?<=\))\{(?:\.nbsrc|data-still=[^}]*)\}'
                       r'| \{#[\w.-]+\}$| data-still="[^"]*"', re.M | re.S)


class DocsError(Exception):
    "A page can't be made as it is; the message names the notebook and the fix"


# --- pages and navigation

def page(fn):
    "The page of a notebook: its name without the number, where nbdev's links of symbols point"
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(fn).stem.lower())


def number(fn):
    "The number that a notebook's name starts with"
    return int(fn.name[:3])


def notebooks():
    "Path of every notebook of nbs/, in reading order"
    seen = {"index": ROOT / "index.ipynb"}
    numbers = {}
    for fn in sorted(map(Path, nbglob())):
        if not re.match(r"\d{3}_", fn.name):
            raise DocsError(f"{fn.name}: a notebook's name starts with three digits and _")
        twin = seen.setdefault(page(fn), fn)
        if twin != fn:
            raise DocsError(f"{fn.name} and {twin.name} would both be page {page(fn)}: rename one")
        twin = numbers.setdefault(number(fn), fn)
        if twin != fn: raise DocsError(f"{fn.name} and {twin.name} have the same number")
    placed = [n for parts in SHELVES.values() for part in parts.values() for n in part]
    twice = {n for n in placed if placed.count(n) > 1}
    if twice: raise DocsError(f"page {min(twice)} stands in two parts: see docs/nbdocs.py")
    for n in numbers.keys() ^ set(placed):
        what = f"{numbers[n].name} stands in no part" if n in numbers else f"there is no page {n}"
        raise DocsError(f"{what}: see COURSE and HANDBOOK in docs/nbdocs.py")
    return list(numbers.values())


def navigation(titles):
    "The nav of mkdocs.yml: `titles` maps a notebook's path to its H1"
    of = {number(fn): fn for fn in titles}
    nav = [{"Home": "index.md"}]
    for shelf, parts in SHELVES.items():
        def entry(n): return {f"{n:03} {titles[of[n]]}": f"{page(of[n])}.md"}
        nav.append({shelf: [{part: [*map(entry, pages)]} for part, pages in parts.items()]})
    return nav


def head(fn):
    "Title and subtitle of a notebook, without running it"
    first = joined(json.loads(fn.read_text(encoding="utf-8"))["cells"][0]["source"])
    title, _, rest = first.removeprefix("# ").partition("\n")
    return title.strip(), rest.strip().removeprefix(">").strip()


def tables(shelf):
    "Markdown: a table of each part's pages, as the home page shows it"
    of = {number(fn): fn for fn in notebooks()}
    out = []
    for part, pages in SHELVES[shelf].items():
        out += [f"**{part}**", "", "| no. | page | what it builds |", "|---|---|---|"]
        for n in pages:
            title, what = head(of[n])
            out.append(f"| {n:03} | [{title}](nbs/{of[n].name}) | {what} |")
        out.append("")
    return "\n".join(out).rstrip()


def with_tables(text):
    "`text` of the home page's notebook with the tables of both shelves as they are now"
    nb = json.loads(text)
    for shelf in SHELVES:
        start = f"## The {shelf.lower()}\n"
        found = [c for c in nb["cells"] if joined(c["source"]).startswith(start)]
        if len(found) != 1: raise DocsError(f"index.ipynb: {len(found)} cells begin with {start}")
        intro = joined(found[0]["source"]).partition("\n\n**")[0]
        found[0]["source"] = f"{intro}\n\n{tables(shelf)}".splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


# --- cells to Markdown

def joined(s): return s if isinstance(s, str) else "".join(s)


def fence(text, lang):
    "`text` as a fenced block"
    ticks = "````" if "```" in text else "```"
    return f"{ticks}{lang}\n{text.rstrip()}\n{ticks}\n"


def keep_exports(cell):
    "Mark exported code, which nbdev's sites leave out: a page shows it folded under its signature"
    found = cell.directives_ or {}
    if cell.cell_type != "code" or "export" not in found or "hide" in found: return
    if re.search(r"^\s*(def|class|@|[\w.]+(:\w+)? *=)", cell.source, re.M):
        cell.folded = True
        cell.directives_ = {}


class Signatures(exec_show_docs):
    """Run what show_doc needs: exports, show_doc cells, and cells of imports alone.

    nbdev would also run tests that import.
    """
    def __call__(self, cell):
        if cell.cell_type != "code" or not cell.source: return
        exported = (cell.directives_ or {}).keys() & {"export", "exports", "exporti"}
        tree = cell.parsed_() or []
        only_imports = tree and all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree)
        if only_imports or "show_doc(" in cell.source or exported: super().__call__(cell)


class Processors(FilterDefaults):
    "nbdev's processors, keeping exported code"
    def base_procs(self):
        procs = [Signatures if p is exec_show_docs else p for p in super().base_procs()]
        procs.insert(procs.index(rm_export), keep_exports)
        return procs


def module_of(fn):
    "The module that a notebook exports; None if it exports nothing"
    found = re.search(r"default_exp ([\w.]+)", fn.read_text(encoding="utf-8"))
    return importlib.import_module(f"{CFG.lib_path.name}.{found[1]}") if found else None


def minutes(body):
    "Minutes to read what is open of a page: 200 words or 15 lines of code a minute"
    opened = re.sub(r"^\?\?\?.*\n(\n|    .*\n)*", "", body, flags=re.M)   # folds are left out
    opened = re.sub(r"<(svg|script)\b.*?</\1>", "", opened, flags=re.S)
    code = [m[4] for m in BLOCK.finditer(opened) if m[3] != "text"]
    words = len(re.sub(r"<[^>]*>", " ", BLOCK.sub("", opened)).split())
    return max(1, round(words/200 + sum(c.count("\n") for c in code)/15))


def outside_code(change, text):
    "`text` with `change` made to what is not code"
    pieces = CODE.split(text)   # text and code, by turns
    pieces[::2] = map(change, pieces[::2])
    return "".join(pieces)


def fold(kind, title, block):
    return f'??? {kind} "{title}"\n\n{textwrap.indent(block, "    ")}'


class Page:
    "One notebook as Markdown, `text`, with the files it shows, `files`"
    def __init__(self, fn, readme=False):
        self.fn = fn
        self.module = module_of(fn)
        self.readme = readme
        self.files = {}
        nb = read_nb(fn)
        known = named(nb.cells)
        state = nb.metadata.get("widgets", {}).get(STATE)
        self.cited = [] if fn.stem == "index" else paper.sections(c.source for c in nb.cells)
        os.chdir(fn.parent)  # where a notebook's relative paths start
        try: Processors()(nb)
        except Exception as e: raise DocsError(f"{fn.name}: {e}\n{e.__cause__ or ''}") from e
        front = getattr(nb, "frontmatter_", {})
        self.title = str(front.get("title", page(fn)))
        parts = [f"# {self.title}\n"]
        self.description = front.get("description", "")
        if self.description: parts.append(f"> {self.description}\n")
        body = [self.cell(c) for c in self.ordered(nb.cells)]
        self.minutes = minutes("\n".join(body))
        if not readme: parts.append(self.actions())
        parts += body
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(filter(None, parts)))
        # nbdev links names in signatures too, but a code block shows the link's Markdown
        text = unlinked(FENCE.sub(lambda m: SYMBOL.sub(r"\1", m[0]), text), known)
        python = re.compile(r"^```+python\n.*?^```+$", re.M | re.S)
        text = python.sub(lambda m: "\n".join(map(narrow, m[0].split("\n"))), text)
        text = self.for_readme(text) if readme else self.for_site(text, state)
        self.text = text.rstrip() + "\n"

    def actions(self):
        "What a reader can do with the page, and about how long reading it takes"
        rel = self.fn.relative_to(ROOT).as_posix()
        links = {"Open in Colab": colab.link(CFG, self.fn),
                 "Download the notebook": f"notebooks/{self.fn.name}",
                 "Source": f"{BLOB_URL}{rel}", "Markdown": f"markdown/{page(self.fn)}.txt"}
        linked = [f'<a href="{url}">{name}</a>' for name, url in links.items()]
        n = self.minutes
        time = "" if self.fn.stem == "index" else f'about {n} minute{"s" * (n > 1)} to read'
        said = [time, paper.link(self.cited), *linked,
                f"run it: <code>jupyter lab {rel}</code>"]
        return f'<p class="nbactions">{" · ".join(filter(None, said))}</p>\n'

    def front(self):
        "Front matter: the subtitle as plain text, which search engines and previews show"
        plain = re.sub(r"[`*$]|\[([^\]]*)\]\([^)]*\)", r"\1", self.description)
        if not plain: return ""
        held = yaml.safe_dump({"description": plain}, allow_unicode=True, width=10_000)
        return f"---\n{held}---\n\n"

    def copy(self):
        "The notebook as one downloads it, or opens it in Colab"
        folder = self.fn.parent.relative_to(ROOT).as_posix()
        def relink(text): return outside_code(lambda s: LINK.sub(self.address, s), text)
        return colab.copy(self.fn.read_text(encoding="utf-8"), CFG, folder, relink)

    def address(self, m):
        "A relative link as the address of a page of the site, or of a file of the repository"
        to = (self.fn.parent / unquote(m[2])).resolve()
        anchor = (m[3] or "").lower()
        if to.suffix == ".ipynb": return f"{m[1]}{DOC_URL}{page(to)}.html{anchor}"
        url = RAW_URL if to.suffix.lstrip(".") in MEDIA.values() else BLOB_URL
        return f"{m[1]}{url}{to.relative_to(ROOT).as_posix()}{anchor}"

    def ordered(self, cells):
        "Cells to show; exported code is cut, and each piece stands behind the signature it makes"
        out, code = [], None
        shown = [c for c in cells if c.get("source") is not None and c.cell_type != "raw"
                 and "AUTOGENERATED" not in c.source]
        for i, c in enumerate(shown):
            if getattr(c, "folded", False):
                names = []
                for s in shown[i + 1:]:
                    if not getattr(s, "has_sd", False): break
                    names.append(re.search(r"show_doc\(([\w.]+)", s.source)[1])
                if self.readme or not names: out.append(c)
                code = pieces(c.source, names) if names else {}
                continue
            out.append(c)
            if getattr(c, "has_sd", False) and code and not self.readme:
                name = re.search(r"show_doc\(([\w.]+)", c.source)[1]
                if name not in code: continue
                self.of_fields(c, code[name], name)
                out.append(AttrDict(cell_type="code", source=code[name], folded=True, outputs=[],
                                    names=[name]))
        return out

    def of_fields(self, c, source, name):
        "In place of a signature, the table of a dataclass's fields"
        table = fields_table(source, name, self.module)
        if table is None: return
        for o in c.get("outputs", []):
            text = joined(o.data["text/markdown"])
            block = re.search(r"```.*?```\n", text, re.S)
            if block: o.data["text/markdown"] = text.replace(block[0], "").rstrip() + f"\n\n{table}"

    def cell(self, c):
        "`c` as Markdown"
        if c.cell_type == "markdown": return self.relink(self.draw(c.source)) + "\n"
        lines = c.source.splitlines()
        opts = {}
        while lines and (m := OPTION.match(lines[0])):
            opts[m[1]] = m[2].strip("\"'")
            lines.pop(0)
        if opts.get("include") == "false": return ""
        code = "\n".join(lines).strip("\n")
        shown = fence(code, "python") if code and opts.get("echo") != "false" else ""
        outputs = []
        alt = opts.get("fig-alt") or titles(code) or f"figure: {self.title}"
        alts = alt.split(" | ")   # one for all pictures, or one for each
        if opts.get("output") != "false":
            plays = STRIPS.search(code) and opts.get("moves") != "false"
            twins = opts.get("dark") != "keep"
            for o in c.get("outputs", []):
                each = alts[1:] and o.output_type != "stream"
                outputs.append(self.output(o, alts.pop(0) if each else alts[0], plays, twins))
        if title := self.fold_title(c, code, any(outputs)): shown = fold(*title, shown)
        return "\n".join(filter(None, [shown, *outputs]))

    def fold_title(self, c, code, has_output):
        "How a cell is folded, kind and title; None if it stays open"
        if self.readme: return None
        n = len(code.splitlines())
        length = f"{n} line{'s' * (n != 1)}"
        if getattr(c, "folded", False):
            names = getattr(c, "names", None) or defined(code)
            return "quote", f"The code of {' and '.join(f'`{name}`' for name in names)}: {length}"
        if answer := re.match(r"# (Answer \d+)", code): return "success", f"{answer[1]}: {length}"
        if TEST.search(code) and not has_output: return "example", f"Tests: {length}"
        return None

    def draw(self, text):
        "`text` with drawings in the page, where they follow its scheme, and details as its folds"
        def inline(m):
            svg = (self.fn.parent / m[2]).read_text(encoding="utf-8")
            svg = svg.replace("grains", f"grains-{Path(m[2]).stem}")   # an id, used once a page
            return '<div class="drawing">' + re.sub(r"\n\s*", " ", svg).strip() + "</div>"
        if self.readme: return text
        def folded(m): return fold("success", m[1], m[2].strip() + "\n")
        return DETAILS.sub(folded, DRAWING.sub(inline, text))

    def output(self, o, alt, plays=False, twins=True):
        "Output `o` as Markdown; pictures and clips become files, whose text is `alt`; strips play"
        if o.output_type == "stream":
            return fence(joined(o.text), "text") if o.name == "stdout" else ""
        if o.output_type == "error":
            raise DocsError(f"{self.fn.name} has a saved error, {o.ename}: "
                            f"run it again with docs/run_nbs.py")
        data = {k: v if isinstance(v, dict) else joined(v) for k, v in o.data.items()}
        if VIEW in data and not self.readme:
            view = f'<script type="{VIEW}">{json.dumps(data[VIEW])}</script>'
            first = data.get("image/png")   # of an `Explorer`
            drawn = " drawn" if first and not pictures_in(base64.b64decode(first)) else ""
            return f'<div class="nbout{drawn}" data-alt="{escape(alt)}">{view}</div>\n'
        if "text/html" in data and not self.readme: return self.html(data["text/html"], alt)
        for mime, ext in MEDIA.items():
            if mime in data:
                is_text = mime.endswith("xml")
                raw = data[mime].encode() if is_text else base64.b64decode(data[mime])
                return self.picture(raw, ext, alt, plays, twins)
        if "text/markdown" in data: return data["text/markdown"] + "\n"
        if "text/latex" in data: return data["text/latex"] + "\n"
        return fence(data["text/plain"], "text") if "text/plain" in data else ""

    def picture(self, raw, ext, alt, plays, twins):
        "A picture as Markdown, with what docs/assets/moving.js needs to play it or to stop it"
        name = self.add(raw, ext)
        shown = f"![{alt}]({name})"
        if self.readme: return f"{shown}\n"
        twin = dark_twin(raw) if twins and ext == "png" else None
        if twin: self.files[twin_name(name)] = twin
        if ext == "gif": return f'{shown}{{data-still="{self.add(still(raw), "png")}"}}\n'
        rows = strips(raw) if plays and ext == "png" else []
        if not rows: return f"{shown}\n"
        box = f'<div class="stiv-strip-of" data-rows="{json.dumps(rows)}" markdown>'
        return f"{box}\n\n{shown}\n\n</div>\n"

    def html(self, html, alt):
        "`html` as one block, its pictures and clips moved to files; the text of clips is `alt`"
        def to_file(m):
            if m[2] not in MEDIA: return m[0]
            raw, ext = base64.b64decode(m[3]), MEDIA[m[2]]
            stop = f' data-still="{self.add(still(raw), "png")}"' if ext == "gif" else ""
            return f'src="{self.add(raw, ext)}"{stop}'
        captioned = r'alt="Video: [^"]*"(?=[^>]*><figcaption>(.*?)</figcaption>)'
        html = re.sub(captioned, r'alt="\1"', html)
        if not alt.startswith("figure: "):
            html = re.sub('alt="Video: [^"]*"', lambda m: f'alt="{escape(alt)}"', html)
        return f'<div class="nbout">\n{DATA_URI.sub(to_file, html).strip()}\n</div>\n'

    def add(self, raw, ext):
        "Keep `raw` as a file beside the page; its name is returned"
        name = f"{page(self.fn)}_files/out_{len(self.files):02d}.{ext}"
        self.files[name] = raw
        return name

    def relink(self, text):
        "`text` with relative links outside code pointed at pages, pictures or the repository"
        if self.readme: return text
        return outside_code(lambda s: LINK.sub(self.target, s), text)

    def target(self, m):
        path = unquote(m[2])
        anchor = (m[3] or "").lower()
        if not m[1].startswith("](") and not path.strip("./"): return m[0]
        fn = (self.fn.parent / path).resolve()
        if not fn.is_relative_to(ROOT) or not fn.exists():
            raise DocsError(f"{self.fn.name} links to {path}, which does not exist")
        rel = fn.relative_to(ROOT).as_posix()
        if fn.suffix == ".ipynb":
            # a link written in HTML is not rewritten by the site builder
            return m[1] + page(fn) + (".md" if m[1] == "](" else ".html") + anchor
        if fn.suffix.lstrip(".") in (*MEDIA.values(), "html"):   # a report is a page of its own
            self.files[rel] = fn.read_bytes()
            return m[1] + rel
        return m[1] + BLOB_URL + rel + anchor

    def for_readme(self, text):
        "Links of symbols lead to the notebooks, which need no published site"
        fns = {page(f): f"nbs/{f.name}" for f in notebooks()}
        symbol = re.escape(DOC_URL) + r"([\w/.-]*?)\.html(#[\w.]+)?"
        text = re.sub(symbol, lambda m: fns.get(m[1], m[0]), text)
        note = "<!-- Made from index.ipynb by docs/nbdocs.py: do not edit. -->"
        return f"{note}\n\n{SOURCE_LINK.sub('', text)}"

    def for_site(self, text, state):
        text = SOURCE_LINK.sub("{.nbsrc}", text).replace("#LNone", "")
        heading = re.compile(r"(?<=\{\.nbsrc\}\n\n)(#+ )(\S+)\n")
        names = {m[2] for m in heading.finditer(text)}
        # nbdev's links of symbols are in lower case, so the headings get such ids
        def anchored(m):
            lower = m[2].lower()
            own = f"{lower}-class" if m[2] != lower and lower in names else lower   # see land
            if "__" not in m[2]: return f"{m[1]}{m[2]} {{#{own}}}\n"
            name = m[2].replace("_", r"\_")   # Markdown would make it bold, and lose the id
            return f'<a id="{own}"></a>\n\n{m[1]}{name}\n'
        text = heading.sub(anchored, text)
        text = re.sub(re.escape(DOC_URL) + r"([\w/.-]*?)\.html", r"\1.md", text)
        if state and VIEW in text:
            held = json.dumps(state).replace("</", "<\\/")
            text += f'\n<script type="{STATE}">{held}</script>\n'
            text += '<script src="assets/embed.js"></script>\n'
        if 'class="stiv-play"' in text:
            text += '\n<script type="module" src="assets/play/play.mjs"></script>\n'
        return text


# --- the built site

class Links(HTMLParser):
    "Every id of a page, and every address that it links to or loads"
    def __init__(self, fn):
        super().__init__()
        self.ids = set()
        self.links = []
        self.loads = []
        self.feed(fn.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        if src := attrs.get("src"): self.loads.append(src)
        if href := attrs.get("href"):
            only_named = {"canonical", "prev", "next", "alternate"}
            loads = tag == "link" and not only_named & set((attrs.get("rel") or "").split())
            (self.loads if loads else self.links).append(href)


def check_site(site):
    "Raise `DocsError` where a page of `site` has a broken link or loads from another host"
    pages = {fn: Links(fn) for fn in site.rglob("*.html")}
    bad = []
    for fn, p in pages.items():
        where = fn.relative_to(site)
        bad += [f"{where} loads {u[:80]}" for u in p.loads if re.match(r"(https?:)?//", u)]
        for url in p.links + p.loads:
            u = urlsplit(url)
            if u.scheme or u.netloc or fn.name == "404.html": continue
            to = (fn.parent / unquote(u.path)).resolve() if u.path else fn
            if to.is_dir(): to = to / "index.html"
            if not to.exists():
                bad.append(f"{where} links to {url[:80]}, which does not exist")
            elif u.fragment and to in pages:
                if unquote(u.fragment) not in pages[to].ids | {"__top", "__tabbed"}:
                    bad.append(f"{where} links to {url[:80]}, which has no such heading")
    for fn in site.glob("markdown/*.txt"):
        for m in LINK.finditer(CODE.sub("", fn.read_text(encoding="utf-8"))):
            if not (fn.parent / unquote(m[2])).exists():
                bad.append(f"{fn.relative_to(site)} links to {m[2]}, which does not exist")
    if bad: raise DocsError("\n".join(dict.fromkeys(bad)))


def check_width(pages):
    "Raise `DocsError` where a page's code, signatures included, is wider than its column"
    bad = []
    for fn, p in pages.items():
        for indent, _, language, code in BLOCK.findall(p.text):
            if language == "text": continue   # what a cell has printed
            lines = (line.removeprefix(indent) for line in code.splitlines())
            bad += [f"{fn.name}: {line}" for line in lines if len(line) > WIDTH]
    if bad: raise DocsError("\n".join([f"code of more than {WIDTH} characters a line:", *bad]))


def reading(pages):
    "Minutes of reading by the number of a page, as results/reading.json keeps them"
    return {f"{number(fn):03}": p.minutes for fn, p in pages.items() if fn.stem != "index"}


def check_reading(pages):
    "Raise `DocsError` where a page has grown or shrunk by more minutes than the plan can bear"
    kept = json.loads(READING.read_text(encoding="utf-8"))
    now = reading(pages)
    stale = [n for n in now if abs(kept.get(n, now[n]) - now[n]) > SLACK]
    if stale:
        raise DocsError(f"page {stale[0]} takes {now[stale[0]]} minutes, not {kept[stale[0]]}: "
                        "run python docs/nbdocs.py minutes, then 052_teaching.ipynb again")


def land(text, ids):
    """`text` with each link of a symbol on a heading that exists: a method's may be its class's;
    a class has an id of its own where a function has its name in lower case.
    """
    def retarget(m):
        name, _, symbol = m[2].partition("#")
        if name not in ids or not symbol: return m[0]
        kinds = ("-class", "") if m[1][1].isupper() else ("",)
        wanted = (s + kind for s in (symbol, symbol.split(".")[0]) for kind in kinds)
        found = [s for s in wanted if s in ids[name]]
        return f"[{m[1]}]({name}{'#' + found[0] if found else ''})"
    return SYMBOL.sub(retarget, text)


def plain(text):
    "A page's Markdown as one reads it in markdown/, beside the other pages' and below the pictures"
    def relinked(m):
        md = m[2].endswith(".md")
        return f"{m[1]}{m[2][:-3] + '.txt' if md else '../' + m[2]}{m[3] or ''}"
    def bare(s): return LINK.sub(relinked, SITE_ONLY.sub("", SVG.sub(r"*\1*", s)))
    return re.sub(r"\n{3,}", "\n\n", outside_code(bare, HELD.sub("", text)))


def lighten(site):
    "Search finds words and names of symbols, not code: its index is fetched with every page"
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    code = re.compile(r"<pre>.*?</pre>", re.S)
    for item in index["items"]: item["text"] = code.sub("", item["text"])
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    write(site, {"search.json": text.encode(), "search.js": f"var __index = {text}".encode()})


def write(folder, files):
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def readme(check):
    "Write the home page's tables, README.md and its pictures, or with `check` say what is stale"
    index = ROOT / "index.ipynb"
    before = index.read_text(encoding="utf-8")
    after = with_tables(before)
    if check and before != after:
        raise DocsError("index.ipynb lists other pages than there are; "
                        "run: python docs/nbdocs.py readme")
    if before != after: index.write_text(after, encoding="utf-8")
    home = Page(index, readme=True)
    files = {"README.md": home.text.encode(), **home.files}
    present = [ROOT / "README.md", *(ROOT / "index_files").glob("*")]
    before = {f.relative_to(ROOT).as_posix(): f.read_bytes() for f in present if f.exists()}
    stale = [name for name in sorted(files.keys() | before.keys())
             if files.get(name) != before.get(name)]
    if check and stale:
        raise DocsError(f"out of date: {', '.join(stale)}; run: python docs/nbdocs.py readme")
    if check: return
    for name in before.keys() - files.keys(): (ROOT / name).unlink()
    write(ROOT, files)


def scheme_css():
    "The colours of drawings in the site's two schemes, whatever the system's is"
    def rule(scheme, colours):
        values = " ".join(f"--{k}: {v};" for k, v in colours.items())
        return f'[data-md-color-scheme="{scheme}"] .drawing svg.drawing {{ {values} }}\n'
    printed = f"@media print {{ {rule('slate', drawings.LIGHT)}}}\n"
    return rule("default", drawings.LIGHT) + rule("slate", drawings.DARK) + printed


def llms(pages):
    "llms.txt: what the site is, and each page as Markdown (llmstxt.org)"
    titles = {page(fn): p for fn, p in pages.items()}
    of = {number(fn): page(fn) for fn in pages if fn.stem != "index"}
    lines = ["# stiv_nb", "", f"> {titles['index'].description}", ""]
    for shelf, parts in SHELVES.items():
        lines += [f"## {shelf}", ""]
        for n in (n for numbers in parts.values() for n in numbers):
            p = titles[of[n]]
            lines.append(f"- [{p.title}](markdown/{of[n]}.txt): {p.description}")
        lines.append("")
    return "\n".join(lines)


def player(folder):
    """Graphs and runtime of the model in the page, into `folder`; what is missing, in words.

    Without them the page shows clips that were drawn before.
    """
    from stiv_nb import load
    from stiv_nb.stiv.export import export_graphs
    missing = []
    try: export_graphs(load("toy", device="cpu"), folder / "graphs")
    except ImportError as e: missing.append(str(e))
    runtime = HERE / "node_modules/onnxruntime-web/dist"
    names = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
    if runtime.is_dir(): write(folder / "runtime", {n: (runtime / n).read_bytes() for n in names})
    else: missing.append("no runtime for the model in the page: npm install --prefix docs")
    return missing


def site():
    "Build the site in _site/site"
    work = ROOT / "_site"
    shutil.rmtree(work, ignore_errors=True)
    fns = [ROOT / "index.ipynb", *notebooks()]
    pages = {fn: Page(fn) for fn in fns}
    check_width(pages)
    check_reading(pages)
    ids = {f"{page(fn)}.md": set(HEADING_ID.findall(p.text)) for fn, p in pages.items()}
    for fn, p in pages.items():
        text = p.front() + in_schemes(land(p.text, ids), p.files)
        write(work / "docs", {**p.files, f"{page(fn)}.md": text.encode()})
    shutil.copytree(HERE / "assets", work / "docs/assets")
    with open(work / "docs/assets/nb.css", "a", encoding="utf-8") as css: css.write(scheme_css())
    conf = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    conf["nav"] = navigation({fn: p.title for fn, p in pages.items() if fn != fns[0]})
    conf["site_url"] = DOC_URL
    text = yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)
    (work / "mkdocs.yml").write_text(text, encoding="utf-8")
    build = [sys.executable, "-m", "zensical", "build", "-f", "mkdocs.yml", "--strict"]
    done = subprocess.run(build, cwd=work, capture_output=True, text=True)
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr.split("Traceback")[0])
        raise DocsError(f"zensical stopped:\n{said.strip()}")
    for fn, p in pages.items():
        write(work / "site", {f"notebooks/{fn.name}": p.copy(),
                              f"markdown/{page(fn)}.txt": plain(p.text).encode()})
    write(work / "site", {"llms.txt": llms(pages).encode()})
    lighten(work / "site")
    check_site(work / "site")
    for what in player(work / "site/assets/play"): print(f"note: {what}")
    print(f"{len(pages)} pages in _site/site")


def keep_reading():
    "Write results/reading.json, which the plan for teachers counts with"
    pages = {fn: Page(fn) for fn in notebooks()}
    text = json.dumps(reading(pages), indent=1) + "\n"
    READING.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["readme", "site", "minutes"])
    parser.add_argument("--check", action="store_true", help="with readme: write nothing")
    args = parser.parse_args()
    try:
        if args.what == "readme": readme(args.check)
        elif args.what == "site": site()
        else: keep_reading()
    except DocsError as e: sys.exit(str(e))


if __name__ == "__main__": main()
