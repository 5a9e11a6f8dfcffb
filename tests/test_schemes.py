"""Figures in the dark scheme: ink turns light, pictures keep their pixels"""
import colorsys
import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.append(str(Path(__file__).parent.parent/"docs"))
from schemes import PAGE, contrast, dark_twin, in_schemes, on_dark, pictures_in


def png(fig):
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=80)
    plt.close(fig)
    return out.getvalue()


def seen(raw):
    "What a reader sees of a twin on the dark page, (h, w, 3) in [0, 1]"
    twin = np.asarray(Image.open(io.BytesIO(raw)))/255
    return twin[..., :3]*twin[..., 3:] + PAGE*(1 - twin[..., 3:])


def pixels(raw): return np.asarray(Image.open(io.BytesIO(raw)))


def strip(frames):
    "PNG of a figure with a line of text and a row of frames (h, w, 3)"
    fig = plt.figure(figsize=(4, 1.5))
    fig.text(.02, .85, "a magenta square, growing")
    for i, frame in enumerate(frames):
        ax = fig.add_axes([(4 + 66*i)/320, 10/120, 64/320, 64/120])
        ax.imshow(frame, interpolation="nearest")
        ax.axis("off")
    return png(fig)


def test_plot():
    fig, ax = plt.subplots(figsize=(4, 2))
    ax.plot([0, 1], [0, 1], color="#00008b", lw=6)
    ax.barh([.8], [.5], height=.3, color="#1f77b4")
    ax.axvspan(.8, 1, color=".93")
    ax.set_xlabel("flow time")
    raw = png(fig)
    assert pictures_in(raw) == []
    before, after = pixels(raw)[..., :3], seen(dark_twin(raw))
    white, black = (before == 255).all(-1), (before < 10).all(-1)
    assert np.abs(after[white] - PAGE).max() < .01
    assert black.sum() > 50 and contrast(after[black].min(0), PAGE) > 12       # text and axes
    assert contrast(after[(before == 237).all(-1)][0], PAGE) < 1.6             # a tint stays faint


def test_ink_keeps_its_hue_and_is_light_enough():
    for name in ("tab:blue", "tab:purple", "darkblue", "blue", "tab:red", "orange", "darkgreen"):
        rgb = np.array([matplotlib.colors.to_rgb(name)])
        *ink, alpha = on_dark(rgb)[0]
        shown = np.array(ink)*alpha + PAGE*(1 - alpha)
        assert contrast(shown, PAGE) >= min(4.5, contrast(rgb[0], np.ones(3))) - .05, name
        turn = abs(colorsys.rgb_to_hsv(*ink)[0] - colorsys.rgb_to_hsv(*rgb[0])[0])
        assert min(turn, 1 - turn) < .02, name
    assert contrast(on_dark(np.zeros((1, 3)))[0, :3], PAGE) > 12
    assert contrast(on_dark(np.full((1, 3), .4))[0, 3]*np.array([.88, .89, .92]), PAGE) >= 4.5


def test_pictures_keep_their_pixels():
    rng = np.random.default_rng(0)
    frames = [np.full((32, 32, 3), 25, np.uint8) for _ in range(3)]
    for i, frame in enumerate(frames): frame[8:16, 8*i:8*i + 8] = (240, 20, 240)
    frames.append(rng.integers(0, 256, (32, 32, 3), np.uint8))
    frames[2][:4, 10:18] = 255                                     # white at the edge
    raw = strip(frames)
    assert len(pictures_in(raw)) == 4
    before, after = pixels(raw), pixels(dark_twin(raw))
    for i, frame in enumerate(frames):
        part = slice(46, 110), slice(4 + 66*i, 68 + 66*i)
        assert (before[part][..., :3] == frame.repeat(2, 0).repeat(2, 1)).all()
        assert (after[part] == before[part]).all()
    assert (after[46:110, 68:70, 3] == 0).all()                    # the gap is the page's


def test_heat_maps_keep_their_pixels_but_not_their_axes():
    for values in (np.eye(6), np.zeros((6, 6)), np.random.default_rng(0).random((6, 6))):
        fig, ax = plt.subplots(figsize=(2.5, 2.5))
        ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
        raw = png(fig)
        (top, bottom, left, right), = pictures_in(raw)
        before, after = pixels(raw), pixels(dark_twin(raw))
        assert (after[top:bottom, left:right] == before[top:bottom, left:right]).all()
        assert after[bottom, left + 3, :3].min() > 200 > 40 > before[bottom, left + 3, :3].max()


def test_clouds_of_points_are_no_pictures():
    x, y = np.random.default_rng(0).normal(size=(2, 3000))
    fig, ax = plt.subplots(figsize=(2.5, 2.5))
    ax.scatter(x, y, s=4)
    assert pictures_in(png(fig)) == []


def test_pages_show_each_in_its_scheme():
    plot = strip([])
    files = {"a_files/out_00.png": plot, "a_files/out_00-dark.png": dark_twin(plot),
             "a_files/out_01.png": plot}
    text = "![a plot](a_files/out_00.png)\n\n![b](a_files/out_01.png)\n\n![c](elsewhere.png)"
    first, second, third = in_schemes(text, files).split("\n\n")
    size = "{loading=lazy width=320 height=120}"
    assert first == (f"![a plot](a_files/out_00.png#only-light){size}"
                     f"![a plot](a_files/out_00-dark.png#only-dark){size}")
    assert second == f"![b](a_files/out_01.png){size}" and third == "![c](elsewhere.png)"


def test_only_figures_have_twins():
    out = io.BytesIO()
    Image.new("RGB", (30, 30), "white").save(out, "PNG")   # a strip of frames, not a figure
    assert dark_twin(out.getvalue()) is None
