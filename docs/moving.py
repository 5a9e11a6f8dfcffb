"""What moves on the site: film strips that play, and clips that stand still if a reader wants that.

A strip is a picture whose rows are frames of one size side by side, as `show_frames` draws them.
The page plays it from that picture (docs/assets/moving.js), so that nothing is stored twice.
"""
import io

import numpy as np
from PIL import Image

from schemes import runs

LEAST = 14      # pixels of a frame's side
WHITE = 250     # of 255: what counts as paper


def even(numbers): return max(numbers) - min(numbers) <= 1 if numbers else True


def strips(png):
    "Rows of frames in a picture: x, y, width and height of the first, how many, pixels to the next"
    ink = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) < WHITE).any(2)
    wide = ink.sum(1) > .5*max(1, ink.any(0).sum())        # lines that are frames, not a title
    out = []
    for top, bottom in runs(wide):
        frames = [*runs(ink[top:bottom].any(0))]
        widths = [b - a for a, b in frames]
        steps = [b[0] - a[0] for a, b in zip(frames, frames[1:])]
        if len(frames) < 3 or min(widths) < LEAST or bottom - top < LEAST: continue
        if not even(widths) or not even(steps) or max(steps) - min(widths) > min(widths)/4: continue
        step = (frames[-1][0] - frames[0][0])/(len(frames) - 1)
        out.append([int(n) for n in (frames[0][0], top, min(widths), bottom - top, len(frames))]
                   + [round(float(step), 2)])
    return out


def still(gif):
    "The first frame of a clip as PNG"
    out = io.BytesIO()
    Image.open(io.BytesIO(gif)).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()
