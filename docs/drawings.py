"""The course's drawings, as SVG files in nbs/drawings.

    python docs/drawings.py           # write them
    python docs/drawings.py --check   # only say which are out of date

They follow the reader's light or dark scheme: colours are CSS variables, which a page may set.
"""
import argparse
import random
import sys
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "nbs/drawings"
LIGHT = dict(ink="#22252b", line="#646b78", soft="#f1f3f7", data="#3a69cf", noise="#a9afba",
             given="#9c6300", text="#18794f", away="#c2384a", paper="#ffffff")
DARK = dict(ink="#e4e6eb", line="#8d94a3", soft="#2a2e37", data="#7aa2ff", noise="#656c79",
            given="#f0b040", text="#4fc48f", away="#ff7a8a", paper="#1e2129")
STYLE = """
svg.drawing { %s }
@media (prefers-color-scheme: dark) { svg.drawing { %s } }
.drawing text { font: 14px system-ui, sans-serif; fill: var(--ink); }
.drawing .small { font-size: 12px; }
.drawing .strong { font-weight: 600; }
.drawing .faint { fill: var(--line); }
.drawing .wire { stroke: var(--line); stroke-width: 1.6; fill: none; }
""" % tuple("; ".join(f"--{k}: {v}" for k, v in of.items()) for of in (LIGHT, DARK))
_DICE = random.Random(4)
_PLACES = [(4*i, 4*j) for i in range(10) for j in range(10) if _DICE.random() < .5]
_GRAINS = "".join(f"M{x} {y}h4v4h-4z" for x, y in _PLACES)
NOISE = ('<symbol id="grains" viewBox="0 0 40 40">'
         f'<path d="{_GRAINS}" style="fill: var(--noise)"/></symbol>')
STEP = 46    # from one frame of a strip to the next
SIDE = 40    # of a frame


class Drawing:
    "Shapes, collected; `svg` gives the file"
    def __init__(self, width, height, alt):
        self.size = width, height
        self.alt = alt
        self.parts = []

    def add(self, tag, inside=None, **attrs):
        "An element; an attribute's _ stands for -, and of `cls` for class"
        named = {k.replace("cls", "class").replace("_", "-"): v for k, v in attrs.items()}
        words = " ".join(f'{k}="{round(v, 1) if isinstance(v, float) else v}"'
                         for k, v in named.items())
        end = "/>" if inside is None else f">{inside}</{tag}>"
        self.parts.append(f"<{tag} {words}{end}")

    def say(self, x, y, text, cls="", anchor="middle", colour=None):
        "One line of text, or several below each other"
        fill = dict(style=f"fill: var(--{colour})") if colour else {}
        for i, line in enumerate(text.split("\n")):
            self.add("text", escape(line), x=x, y=y + 17*i, cls=cls, text_anchor=anchor, **fill)

    def box(self, x, y, w, h, text, colour="line", fill="soft", cls=""):
        "A rounded box with lines of text in its middle"
        self.add("rect", x=x, y=y, width=w, height=h, rx=7,
                 style=f"fill: var(--{fill}); stroke: var(--{colour}); stroke-width: 1.6")
        lines = text.count("\n")
        self.say(x + w/2, y + h/2 + 5 - 8.5*lines, text, cls)

    def arrow(self, *points, colour="line", dashed=False):
        "A line through points, with a head at its end"
        (x1, y1), (x2, y2) = points[-2:]
        style = f"stroke: var(--{colour})" + ("; stroke-dasharray: 5 4" if dashed else "")
        self.add("path", d="M" + "L".join(f"{x} {y}" for x, y in points), cls="wire", style=style)
        length = ((x2 - x1)**2 + (y2 - y1)**2)**.5
        ux, uy = (x2 - x1)/length, (y2 - y1)/length
        corners = [(x2, y2), (x2 - 9*ux - 4.5*uy, y2 - 9*uy + 4.5*ux),
                   (x2 - 9*ux + 4.5*uy, y2 - 9*uy - 4.5*ux)]
        self.add("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners),
                 style=f"fill: var(--{colour})")

    def frame(self, x, y, kind, at=.5, side=SIDE):
        "A frame: noise, data, given (clean, with a thick rim), lost (crossed out) or empty"
        rim = "given" if kind == "given" else "line"
        thick = 3 if kind == "given" else 1.2
        self.add("rect", x=x, y=y, width=side, height=side, rx=3,
                 style=f"fill: var(--paper); stroke: var(--{rim}); stroke-width: {thick}")
        if kind == "noise":
            self.add("use", href="#grains", x=x, y=y, width=side, height=side)
        if kind in ("data", "given"):
            self.add("circle", cx=x + side*(.2 + .6*at), cy=y + side/2, r=side/6,
                     style="fill: var(--away)")
        if kind == "lost":
            for a, b in (((0, 0), (1, 1)), ((0, 1), (1, 0))):
                self.add("path", d=f"M{x+a[0]*side} {y+a[1]*side}L{x+b[0]*side} {y+b[1]*side}",
                         cls="wire")

    def strip(self, x, y, kinds, side=SIDE, step=STEP):
        "Frames in a row, their thing moving from right to left"
        for i, kind in enumerate(kinds):
            self.frame(x + i*step, y, kind, 1 - i/max(1, len(kinds) - 1), side)

    def svg(self):
        w, h = self.size
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 {w} {h}" '
                f'width="{w}" height="{h}" role="img">')
        body = "\n".join(self.parts)
        if "#grains" in body: body = f"{NOISE}\n{body}"
        title = f"<title>{escape(self.alt)}</title>"
        return f"{head}\n{title}\n<style>{STYLE}</style>\n{body}\n</svg>\n"


def stiv():
    d = Drawing(960, 430, "A caption, a first picture and noise go through encoders and the "
                "diffusion transformer, step by step, and come out as a video")
    d.box(10, 30, 178, 44, "a red circle moving left", "text")
    d.say(99, 22, "caption", "small faint")
    d.arrow((188, 52), (228, 52))
    d.box(230, 30, 112, 44, "text encoder")
    d.frame(79, 132, "data", 1)
    d.say(99, 124, "first picture", "small faint")
    d.arrow((121, 152), (228, 152))
    d.box(230, 130, 112, 44, "codec, encode")
    d.arrow((286, 176), (286, 216), (246, 216), (246, 248), colour="given")
    d.say(298, 212, "its clean latent takes\nthe noisy one's place", "small", "start", "given")
    d.say(99, 262, "noise, at the start", "small faint")
    d.arrow((168, 270), (218, 270), dashed=True)
    d.strip(226, 250, ["given", "noise", "noise", "noise"])
    d.say(315, 312, "z at time t: frame 0 is given", "small")
    d.arrow((412, 270), (486, 270))
    d.box(490, 170, 190, 200, "", "data")
    d.say(585, 246, "diffusion transformer", "strong")
    d.say(585, 274, "blocks of attention over\nspace, time and text,\nand feed-forward", "small")
    d.arrow((342, 52), (530, 52), (530, 166), colour="text")
    d.say(436, 44, "a vector per word", "small", colour="text")
    d.arrow((342, 64), (510, 64), (510, 96), (558, 96))
    d.say(436, 82, "pooled text", "small faint")
    d.box(560, 74, 250, 44, "time t + pooled text + micro-conditions", cls="small")
    d.arrow((620, 118), (620, 166))
    d.say(628, 146, "shift, scale, gate of every block", "small faint", "start")
    d.arrow((680, 270), (730, 270))
    d.strip(736, 250, ["lost", "noise", "noise", "noise"])
    d.say(825, 240, "velocity v", "strong")
    d.say(825, 312, "in training: no loss for frame 0", "small")
    d.arrow((825, 324), (825, 398), (702, 398))
    d.box(420, 380, 280, 36, "one solver step: z + Δt · v, t from 0 to 1", cls="small")
    d.arrow((420, 398), (370, 398), (370, 324))
    d.arrow((260, 322), (260, 398), (222, 398), colour="data")
    d.say(250, 352, "at t = 1", "small faint", "end")
    d.box(100, 380, 120, 36, "codec, decode", "data", cls="small")
    d.arrow((100, 398), (66, 398), colour="data")
    d.say(36, 403, "video", "strong")
    return d


def _grid(d, x, y, on):
    "Three frames of 3 x 3 patches; `on(f, row, column)` gives the colour of a patch"
    for f in range(3):
        for r in range(3):
            for c in range(3):
                fill = f"fill: var(--{on(f, r, c)}); stroke: var(--line); stroke-width: .7"
                d.add("rect", x=x + 44*f + 12*c, y=y + 12*r, width=11, height=11, style=fill)


def block():
    d = Drawing(960, 416, "A block: spatial attention, temporal attention, cross-attention to the "
                "text and a feed-forward net, each between two norms and added to the residual "
                "stream")
    def of_frame(f, r, c): return f == 1
    def of_place(f, r, c): return (r, c) == (1, 1)
    def itself(f, r, c): return False
    def shown(sees):
        "Colours of the patches: the one that looks, those that it sees, and the others"
        def colour(f, r, c):
            if (f, r, c) == (1, 1, 1): return "given"
            return "data" if sees(f, r, c) else "soft"
        return colour
    seen = [shown(of_frame), shown(of_place), shown(itself), shown(itself)]
    names = ["spatial\nattention", "temporal\nattention", "cross-attention\nto the text",
             "feed-forward\n(MLP)"]
    notes = ["all patches of its frame,\nturned by 2D RoPE",
             "its place in all frames,\nturned by 1D RoPE",
             "every word of the caption", "no other token"]
    d.box(240, 14, 480, 40, "time t  +  pooled text  +  micro-conditions  (singleton condition)")
    d.box(360, 78, 240, 34, "one AdaLN, shared by all blocks", "away", cls="small")
    d.arrow((480, 54), (480, 76))
    d.say(24, 282, "tokens", "small faint", "start")
    before = 24
    for i, name in enumerate(names):
        x = 64 + 224*i
        gated = i in (0, 3)
        colour = "away" if gated else "line"
        d.box(x + 20, 194, 60, 26, "norm", cls="small")
        d.box(x + 20, 132, 150, 54, name, "data", cls="strong")
        d.box(x + 110, 194, 60, 26, "norm", cls="small")
        d.arrow((x + 50, 268), (x + 50, 222))
        d.arrow((x + 50, 194), (x + 50, 188), colour=colour)
        d.arrow((x + 140, 186), (x + 140, 192))
        d.arrow((x + 140, 220), (x + 140, 256), colour=colour)
        d.add("circle", cx=x + 140, cy=268, r=10,
              style="fill: var(--paper); stroke: var(--line); stroke-width: 1.6")
        d.say(x + 140, 273, "+")
        d.arrow((before, 268), (x + 128, 268))
        before = x + 151
        if gated:
            start = 360 if i == 0 else 600
            d.arrow((start, 95), (x - 6, 95), (x - 6, 207), (x + 18, 207), colour="away")
            d.arrow((start, 103), (x + 186, 103), (x + 186, 240), (x + 144, 240), colour="away")
            d.say(x - 10, 226, "shift, scale", "small", "middle", "away")
            d.say(x + 190, 256, "gate", "small", "middle", "away")
        else: d.say(x + 146, 244, "gain", "small faint", "start")
        d.say(x + 95, 302, notes[i], "small faint")
        _grid(d, x + (10 if i == 2 else 34), 336, seen[i])
        if i == 2: d.box(x + 146, 338, 60, 32, "words", "data", cls="small")
    d.arrow((before, 268), (940, 268))
    for x, colour, word in ((330, "given", "a token"), (440, "data", "what it looks at")):
        d.add("rect", x=x, y=392, width=11, height=11, style=f"fill: var(--{colour})")
        d.say(x + 16, 402, word, "small faint", "start")
    return d


def replacement():
    d = Drawing(960, 390, "Training with the first frame given and without, and the sampler, which "
                "puts the clean frame back at every step")
    rows = [("the clip", ["data"]*5, None),
            ("image kept, 92%", ["given"] + ["noise"]*4, ["lost"] + ["empty"]*4),
            ("image dropped, 8%", ["noise"]*5, ["empty"]*5)]
    d.say(330, 24, "what the model reads", "strong")
    d.say(640, 24, "what the loss counts", "strong")
    for i, (name, reads, counts) in enumerate(rows):
        y = 40 + 76*i
        d.say(196, y + 25, name, anchor="end")
        d.strip(216, y, reads)
        if counts is None: continue
        d.strip(526, y, counts)
        for k, kind in enumerate(counts):
            if kind == "empty": d.say(546 + STEP*k, y + 26, "v", "strong", colour="data")
        d.say(770, y + 17, "the model completes a picture\nin motion" if i == 1 else
              "the model draws every frame\nfrom the text alone", "small", "start")
    d.arrow((236, 84), (236, 112), colour="given")
    d.say(246, 103, "swap, clean for noisy", "small", "start", "given")
    d.say(196, 300, "in the sampler,", anchor="end")
    d.say(196, 318, "before every step", anchor="end")
    for k, (x, t) in enumerate(((216, "t = 0"), (466, "t = 0.5"), (716, "t = 1"))):
        kinds = ["given"] + (["data"]*4 if k == 2 else ["noise"]*4)
        d.strip(x, 286, kinds)
        d.say(x + 112, 350, t, "small faint")
        if k < 2: d.arrow((x + 226, 306), (x + 246, 306))
    return d


def tasks():
    d = Drawing(960, 340, "Six tasks as choices of given frames")
    given = [("text to video", "none", ()), ("text and image to video", "the first", (0,)),
             ("prediction", "the first four", (0, 1, 2, 3)),
             ("interpolation", "first and last", (0, 7)),
             ("temporal upsampling", "every second", (0, 2, 4, 6)),
             ("multi-view", "one view; frames are places", (0,))]
    for i, (name, words, frames) in enumerate(given):
        x, y = 20 + 480*(i % 2), 34 + 108*(i // 2)
        d.say(x, y - 6, name, "strong", "start")
        d.say(x + 366, y - 6, words, "small faint", "end")
        d.strip(x, y, ["given" if k in frames else "noise" for k in range(8)])
    return d


def guidance():
    d = Drawing(960, 400, "Joint guidance goes from one null pass past the full pass; separate "
                "guidance goes over a pass with the image alone; renorm keeps the length of the "
                "full pass")
    d.say(150, 24, "JIT-CFG: two passes", "strong")
    d.say(470, 24, "SIT-CFG: three passes", "strong")
    d.say(800, 24, "CFG-Renorm", "strong")
    def dot(x, y, text, colour, dx=0, dy=-12, anchor="middle"):
        d.add("circle", cx=x, cy=y, r=5, style=f"fill: var(--{colour})")
        d.say(x + dx, y + dy, text, "small", anchor, colour)
    dot(50, 270, "null", "line", 0, 22)
    dot(130, 190, "full", "data", -12, 4, "end")
    d.arrow((50, 270), (250, 70), colour="given")
    dot(250, 70, "guided", "given", 0, -12)
    dot(130, 190, "", "data")
    d.say(150, 318, "null: no text, no image\nfull: text and image\n"
          "guided = null + s (full - null)", "small")
    dot(380, 270, "null", "line", 0, 22)
    dot(400, 200, "image", "given", -12, 4, "end")
    d.arrow((380, 270), (420, 130), colour="given")
    dot(400, 200, "", "given")
    d.arrow((420, 130), (570, 90), colour="text")
    dot(570, 90, "guided", "away", 0, -12)
    d.arrow((400, 200), (455, 185), colour="text", dashed=True)
    dot(455, 185, "full", "data", 8, 16, "start")
    d.say(470, 318, "null + s₁ (image - null)\n+ s₂ (full - image)\n"
          "a scale for each condition", "small")
    d.add("path", d="M690 157A113 113 0 0 1 803 270", cls="wire", style="stroke-dasharray: 4 4")
    d.arrow((690, 270), (744, 170.7), colour="data")
    d.say(738, 160, "full", "small", "end", "data")
    d.arrow((690, 270), (890, 90), colour="given", dashed=True)
    d.say(890, 76, "guided: too long", "small", "middle", "given")
    d.arrow((690, 270), (774, 194.4), colour="away")
    d.say(786, 202, "renormed", "small", "start", "away")
    d.say(800, 318, "the direction of the guided velocity,\nthe length of the full one", "small")
    return d


def stages():
    d = Drawing(960, 350, "Progressive training: which weights a stage takes from where")
    d.say(20, 78, "256 pixels", "small faint", "start")
    d.say(20, 268, "512 pixels", "small faint", "start")
    for x, y, name in ((110, 50, "T2I-256"), (440, 50, "T2V-256"), (770, 50, "STIV-256"),
                       (110, 240, "T2I-512"), (440, 240, "T2V-512"), (770, 240, "STIV-512")):
        d.box(x, y, 130, 48, name, "data" if "STIV" in name else "line", cls="strong")
    d.arrow((240, 74), (436, 74))
    d.say(338, 66, "all weights", "small")
    d.say(338, 92, "temporal attention is new", "small", colour="away")
    d.arrow((570, 74), (766, 74))
    d.say(668, 66, "all weights", "small")
    d.say(668, 92, "frames are given now", "small", colour="given")
    d.arrow((175, 98), (175, 236))
    d.say(186, 164, "all weights; positions\nare interpolated", "small", "start")
    d.arrow((240, 264), (436, 264), colour="text")
    d.say(338, 256, "everything else:", "small", colour="text")
    d.say(338, 282, "spatial, text, MLP, …", "small", colour="text")
    d.arrow((505, 98), (505, 236), colour="away")
    d.say(516, 172, "temporal attention", "small", "start", "away")
    d.arrow((570, 264), (766, 264))
    d.say(668, 256, "all weights", "small")
    d.say(668, 282, "frames are given now", "small", colour="given")
    d.say(480, 336, "More frames work alike: a 40-frame model starts from the 20-frame one, "
          "with the positions of time interpolated.", "small faint")
    return d


def longer():
    d = Drawing(960, 300, "Twenty key frames, then the frames between each two of them: 380 frames")
    d.say(20, 26, "1  key frames: one clip of 20 frames, each 20 frames of the film apart",
          anchor="start")
    for i in range(20): d.frame(20 + 47*i, 40, "data", 1 - i/19, 26)
    d.say(20, 116, "2  between two neighbours: first and last given, the 19 between them drawn; "
          "19 gaps, in batches",
          anchor="start")
    d.arrow((16, 68), (16, 148), (20, 148), colour="given")
    d.arrow((80, 68), (80, 92), (944, 92), (944, 148), (932, 148), colour="given")
    for i in range(21):
        d.frame(20 + 44.2*i, 138, "given" if i in (0, 20) else "noise", 1 - i/200, 26)
    d.say(20, 208, "3  written as they come: 19 gaps of 20 frames, each without its last, are 380; "
          "memory holds some gaps",
          anchor="start")
    for i in range(19):
        d.add("rect", x=20 + 48.4*i, y=224, width=47, height=26, rx=3,
              style="fill: var(--soft); stroke: var(--line)")
        d.say(43.5 + 48.4*i, 241, f"{20*i}…", "small faint")
    d.say(20, 280, "The micro-conditions tell the model which of the two it does: "
          "among them is the stride.",
          "small faint", "start")
    return d


DRAWINGS = dict(stiv=stiv, block=block, replacement=replacement, tasks=tasks, guidance=guidance,
                stages=stages, longer=longer)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    files = {FOLDER / f"{name}.svg": draw().svg() for name, draw in DRAWINGS.items()}
    present = {f: f.read_text(encoding="utf-8") for f in FOLDER.glob("*")}
    stale = [f for f in files.keys() | present.keys() if files.get(f) != present.get(f)]
    if check and stale:
        sys.exit(f"out of date: {', '.join(f.name for f in stale)}; run: python docs/drawings.py")
    for f in stale:
        if f in files: f.write_text(files[f], encoding="utf-8")
        else: f.unlink()


if __name__ == "__main__": main()
