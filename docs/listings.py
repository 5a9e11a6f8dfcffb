"""Code as a page shows it: lines that fit, each signature with its own code, fields as tables,
links of the names that are meant, and what a figure's title says."""
import ast
import re
import textwrap
from typing import Literal, get_args, get_origin

WIDTH = 100   # characters of code that a page shows without scrolling: see assets/nb.css
SYMBOL = re.compile(r"\[(`[^`\n]+`)\]\(([^)\s]+)\)")
# a title of a figure, in its quotes; a link of a symbol inside another link
TITLE = re.compile(r"title(?: = \(?|=|\()f?"
                   r"""('(?:[^'\\{}\n]|\\.){8,}'|"(?:[^"\\{}\n]|\\.){8,}")""")
NESTED = re.compile(r"\[([^\[\]\n]*)\[(`[^`\n]+`)\]\([^)\s]+\)([^\[\]\n]*)\]\(([^)\s]+)\)")


def narrow(line):
    """A line of a signature as lines that fit the column: without modules' names, long defaults as
    `Name(…)`, a long comment above it. nbdev writes types and defaults out in full.
    """
    line = line.replace(":NoneType=None", "=None").replace("__main__.", "")   # what nbdev writes
    line = re.sub(r"<[\w.]*?(\w+) object at 0x\w+>", r"\1(…)", line)
    if len(line) <= WIDTH: return line
    indent = re.match(" *", line)[0]
    line = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", line)
    line = re.sub(r"=(\w*)\(.{30,}?\)(?=, #|,?$)", r"=\1(…)", line)
    line = re.sub(r"=\{.{30,}\}(?=, #|,?$)", "={…}", line)
    if len(line) <= WIDTH: return line
    parameters, mark, comment = line.partition(" # ")
    if mark and len(parameters) <= WIDTH: return f"{indent}# {comment}\n{parameters}"
    wrapped = textwrap.wrap(line.strip(), WIDTH - len(indent))
    return textwrap.indent("\n".join(wrapped), indent)


def defined(code):
    "Names that code defines at its top, the last of several targets left out"
    names = re.findall(r"^(?:def|class) (\w+)|^(\w+)(?::[\w.|\[\], ]+)? *=", code, re.M)
    return [a or b for a, b in names] or ["this cell"]


def pieces(source, names):
    "Exported code cut so that each of `names` stands with its own, in the order of the code"
    lines = source.split("\n")
    ends = {node.name: node.end_lineno for node in ast.parse(source).body if hasattr(node, "name")}
    def end(name): return ends.get(name.split(".")[-1])   # a method is defined by its last name
    order = sorted(filter(end, names), key=end)
    if not order: return {name: source for name in names[:1]}
    stops = [end(name) for name in order]
    stops[-1] = len(lines)
    starts = [0, *stops[:-1]]
    return {n: "\n".join(lines[a:b]).strip("\n") for n, a, b in zip(order, starts, stops)}


def allowed(annotation, module):
    "An annotation as a reader wants it: the values of a `Literal` that has a name"
    if inside := re.fullmatch(r"Literal\[(.*)\]", annotation): return inside[1]
    found = getattr(module, annotation, None)
    values = [repr(v) for v in get_args(found)] if get_origin(found) is Literal else []
    return ", ".join(values) or annotation


def fields_table(source, name, module):
    "A dataclass or named tuple as a table of its fields; None for what has none"
    node = next((n for n in ast.parse(source).body if getattr(n, "name", None) == name), None)
    if not isinstance(node, ast.ClassDef): return None
    def of_class(n): return ast.get_source_segment(source, n.annotation).startswith("ClassVar")
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not of_class(n)]
    if not fields: return None
    lines = source.split("\n")
    rows = []
    for n in fields:
        said = lines[n.end_lineno - 1][n.end_col_offset:].partition("#")[2].strip()
        above, at = [], n.lineno - 2
        while lines[at].strip().startswith("#"):
            above.insert(0, lines[at].strip().removeprefix("#").strip())
            at -= 1
        kind = allowed(ast.get_source_segment(source, n.annotation), module)
        default = ast.get_source_segment(source, n.value) if n.value else ""
        default = re.sub(r"field\(default_factory=(\w+)\)", r"\1()", default)
        meaning = " ".join([*above, said]).strip().replace("|", "\\|")
        cells = [f"`{n.target.id}`", f"`{kind}`", f"`{default}`" if default else "", meaning]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def titles(code):
    "Titles that code gives its figures, as the text of a picture"
    found = map(ast.literal_eval, TITLE.findall(code))
    text = " / ".join(t for t in found if not t.endswith(", "))   # one goes on behind it
    return text.translate(str.maketrans("[]", "()"))


def named(cells):
    "Names that the code of a page imports or defines"
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    imports = re.findall(r"\bimport\s*(?:\(([^)]*)\)|(.*))", code)
    found = " ".join(a or b for a, b in imports)
    return {*re.findall(r"\w+", found), *re.findall(r"\b(?:def|class) (\w+)", code)}


def unlinked(text, known):
    """`text` without links inside links, and without links of plain words that only share a name:
    such a word is a symbol where the page imports or defines it.
    """
    def keep(m):
        name = m[1].strip("`")
        return m[1] if re.fullmatch("[a-z]+", name) and name not in known else m[0]
    text = SYMBOL.sub(keep, text)
    while NESTED.search(text): text = NESTED.sub(r"[\1\2\3](\4)", text)
    return text
