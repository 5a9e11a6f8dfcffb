"""The dark twin of a figure: what matplotlib drew on white, to stand on a dark page.

A figure's PNG is all there is, so no notebook runs again. White becomes transparent and black
light; coloured ink keeps its hue, and is lightened where it would be too dark. Pictures, such as
frames of a clip or heat maps, keep their pixels: `pictures` finds them.
"""
import io
import re

import numpy as np
from PIL import Image

PAGE = np.array([11, 12, 15])/255   # what the twin stands on: the page of the dark scheme
LIGHT = np.array([.88, .89, .92])   # what black becomes
CONTRAST = 5.5                      # what ink keeps of the contrast that it had to white, at most
BLOCK = 10    # pixels; lines and letters fill no square of this side
SIDE = 20     # pixels; the least side of a picture
DENSE = .85   # share of a square that is not white in a picture
EDGE = .7     # share of a line along a picture's edge that is not white
FLAT = .5     # share of one colour that makes a surface a bar or a tint, not a picture
SPINE = 40    # of 255; axes are darker, and so are dark backgrounds


def luminance(rgb):
    "Relative luminance (...) of sRGB (..., 3) in [0, 1]; WCAG 2.2"
    linear = np.where(rgb <= .04045, rgb/12.92, ((rgb + .055)/1.055)**2.4)
    return linear @ np.array([.2126, .7152, .0722])


def contrast(a, b):
    "WCAG contrast, 1 to 21, of two sRGB colours in [0, 1]"
    low, high = sorted(float(luminance(np.asarray(c))) for c in (a, b))
    return (high + .05)/(low + .05)


def on_dark(rgb):
    "Colours (n, 3) drawn on white as RGBA (n, 4) for a dark page; both in [0, 1]"
    alpha = 1 - rgb.min(-1, keepdims=True)
    ink = ((rgb - 1 + alpha)/np.maximum(alpha, 1/255)).clip(0, 1)   # the least channel is 0
    ink = ink + (1 - ink.max(-1, keepdims=True))*LIGHT
    wanted = np.minimum(CONTRAST, 1.05/(luminance(rgb) + .05))*(luminance(PAGE) + .05) - .05
    def faint(ink): return (luminance(ink*alpha + PAGE*(1 - alpha)) < wanted)[:, None]
    low = np.zeros_like(alpha)
    high = faint(ink).astype(float)
    for _ in range(8):   # how much white the ink needs; adding it leaves the hue
        middle = (low + high)/2
        short = faint(ink + middle*(1 - ink))
        low = np.where(short, middle, low)
        high = np.where(short, high, middle)
    return np.concatenate([ink + high*(1 - ink), alpha], -1)


# --- where the pictures are

def sums(m, h, w):
    "Sums of `m` over all its windows of h times w"
    total = np.pad(m.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = total[h:] - total[:-h]
    return rows[:, w:] - rows[:, :-w]


def dense(ink):
    "Where `ink` (h, w) lies in a square that is nearly full of it, with no line less than half"
    if min(ink.shape) < BLOCK: return np.zeros_like(ink)
    half = BLOCK/2
    full = sums(ink, BLOCK, BLOCK) >= DENSE*BLOCK**2
    full &= sums(sums(ink, BLOCK, 1) >= half, 1, BLOCK) == BLOCK
    full &= sums(sums(ink, 1, BLOCK) >= half, BLOCK, 1) == BLOCK
    return ink & (sums(np.pad(full, BLOCK - 1), BLOCK, BLOCK) > 0)


def runs(line):
    "Where each run of set values in `line` starts and ends"
    edges = np.diff(np.pad(line.astype(int), 1))
    return zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1))


def cut(mask, y=0, x=0):
    "Boxes (top, bottom, left, right) that empty rows and columns cut `mask` into"
    for top, bottom in runs(mask.any(1)):
        for left, right in runs(mask[top:bottom].any(0)):
            part = mask[top:bottom, left:right]
            if part.shape == mask.shape: yield y, y + bottom, x, x + right
            else: yield from cut(part, y + top, x + left)


def sides(part):
    "`part` (h, w) turned so that its top, bottom, left and right come first"
    return part, part[::-1], part.T, part.T[::-1]


def trimmed(ink, box):
    "`box` cut at its outermost thin lines: letters hang into pictures and stand close above"
    top, bottom, left, right = box
    off = []
    for part in sides(ink[top:bottom, left:right]):
        thin = np.flatnonzero(part[:BLOCK].mean(1) < EDGE)
        off.append(thin[-1] + 1 if len(thin) else 0)
    return top + off[0], bottom - off[1], left + off[2], right - off[3]


def stands_free(ink, box):
    "Whether `box` has broad inked edges with white around: a cloud of points has white corners"
    top, bottom, left, right = box
    if min(bottom - top, right - left) < SIDE: return False
    around = np.pad(ink, 2)[top:bottom + 4, left:right + 4]
    return all(part[2:5, 2:-2].mean(1).min() >= EDGE and part[:2, 2:-2].mean(1).min() < .5
               for part in sides(around))


def spines(black, box):
    "Which edges of `box`, in its order, are an axis of just its length; `black` has a margin of 5"
    top, bottom, left, right = box
    black = black[top:bottom + 10, left:right + 10]
    def axis(m):   # the first row inside the margin
        return m[5, 5:-5].all() and not (m[6, 5:-5].all() or m[5, 0] or m[5, -1])
    return [bool(axis(m)) for m in sides(black)]


def flat(rgb):
    "Whether one colour, not a dark grey, is most of `rgb` (h, w, 3), or a light grey a third"
    colours, counts = np.unique(rgb.astype(int) @ [1 << 16, 1 << 8, 1], return_counts=True)
    main = [colours[counts.argmax()] >> s & 255 for s in (16, 8, 0)]
    grey = max(main) - min(main) < 16
    if grey and max(main) < 2*SPINE: return False
    return counts.max() >= (FLAT/1.5 if grey and min(main) > 200 else FLAT)*counts.sum()


def pictures(rgb):
    """Boxes (top, bottom, left, right) of the pictures in a figure, uint8 (h, w, 3).

    A picture is a full rectangle in axes of just its size, or one that is not flat. Of rectangles
    of one size, which are the frames of a strip, the majority decides.
    """
    ink = rgb.min(-1) < 255
    black = np.pad(rgb.max(-1) < SPINE, 5)
    found = [box for box in (trimmed(ink, b) for b in cut(dense(ink))) if stands_free(ink, box)]
    votes = {}
    for top, bottom, left, right in found:
        votes.setdefault((bottom - top, right - left), []).append(
            not flat(rgb[top:bottom, left:right]))
    out = []
    for top, bottom, left, right in found:
        axes = spines(black, (top, bottom, left, right))
        if sum(axes) >= 2: box = top + axes[0], bottom - axes[1], left + axes[2], right - axes[3]
        elif np.mean(votes[bottom - top, right - left]) > .5: box = top, bottom, left, right
        else: continue
        out.append(box)
    return out


def pictures_in(png):
    "`pictures` of a PNG"
    return pictures(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


def dark_twin(png):
    "The bytes of a figure's PNG for the dark scheme; None where there is no white to replace"
    figure = Image.open(io.BytesIO(png))
    if figure.mode != "RGBA" or figure.getchannel("A").getextrema()[0] < 255: return None
    rgb = np.asarray(figure)[..., :3]
    packed = rgb.astype(int) @ [1 << 16, 1 << 8, 1]
    colours, where = np.unique(packed, return_inverse=True)
    known = np.stack([colours >> s & 255 for s in (16, 8, 0)], -1)/255
    twin = (on_dark(known)*255).round().astype(np.uint8)[where.reshape(packed.shape)]
    for top, bottom, left, right in pictures(rgb):
        twin[top:bottom, left:right, :3] = rgb[top:bottom, left:right]
        twin[top:bottom, left:right, 3] = 255
    out = io.BytesIO()
    Image.fromarray(twin).save(out, "PNG")
    return out.getvalue()


def twin_name(name):
    "Where the dark twin of the picture `name` lies"
    return f"{name.removesuffix('.png')}-dark.png"


def in_schemes(text, files):
    "Markdown with the pictures of `files`, PNG by name, and their twins, each in its own scheme"
    def shown(m):
        alt, name = m.groups()
        if name not in files: return m[0]
        width, height = Image.open(io.BytesIO(files[name])).size
        attributes = f"{{loading=lazy width={width} height={height}}}"
        if twin_name(name) not in files: return f"![{alt}]({name}){attributes}"
        return (f"![{alt}]({name}#only-light){attributes}"
                f"![{alt}]({twin_name(name)}#only-dark){attributes}")
    return re.sub(r"!\[([^\n]*?)\]\(([^\s()]+\.png)\)(?!\{)", shown, text)
