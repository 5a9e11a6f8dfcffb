"""Pictures, clips, captions and streams of strangers, as the commands meet them."""
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused
from stiv_nb.cli.main import stiv
from stiv_nb.cli.runs import draw_strips
from stiv_nb.codec.text import TextConfig, TinyText
from stiv_nb.codec.vae import TinyVAE, VAEConfig, store_statistics
from stiv_nb.data.folder import make_samples, read_captions, write_folder
from stiv_nb.data.pictures import read_image
from stiv_nb.data.shapes import VOCABULARY, ShapeWorld
from stiv_nb.data.stream import ClipStream
from stiv_nb.data.video import Video
from stiv_nb.train.cache import fill_cache

HARD = ["costs $5_ or $6", r"$\frac{$", "😀 中文", "two\nlines", "\x1b[31mred", "word " * 1000]


@pytest.fixture
def encoders():
    "A codec and a text encoder with random weights"
    torch.manual_seed(0)
    vae = TinyVAE(VAEConfig(width=16)).eval()
    store_statistics(vae, ShapeWorld().batch(range(4))[0])
    return vae, TinyText(TextConfig(words=VOCABULARY, width=16, depth=1))


# Captions

def test_hard_captions_end_no_training(here):
    "The strips of a training are drawn, in silence, whatever its captions hold"
    class Pipe:
        defaults = SimpleNamespace(n_frames=8, null_image="noise")
        def __call__(self, captions, **kwargs):
            return [Video(torch.zeros(8, 3, 32, 32).byte()) for _ in captions]

    examples = SimpleNamespace(captions=HARD, given={0: None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_strips(Pipe(), examples, here / "samples/000001.png", title=HARD[0])
    assert Image.open("samples/000001.png").height > 2*len(HARD)*64


def test_hard_captions_end_no_look(here):
    write_folder("clips", torch.zeros(len(HARD), 2, 3, 32, 32).byte(), HARD, suffix=".gif")
    code, text = stiv("data", "look", "clips", "--n-frames", 2, "-o", "look.png")
    assert (code, text) == (0, "look.png")      # and not a word about glyphs
    code, text = stiv("data", "check", "clips", "--n-frames", 2)
    assert (code, "1000 words" in text, "\x1b" in text) == (1, True, False)


# Files that are none, or that reach elsewhere

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_nothing_is_waited_for(here):
    folder = make_samples("clips", n=1)
    (clip,) = (folder / row["file"] for row in read_captions(folder))
    clip.unlink()
    os.mkfifo(clip)
    assert "is a pipe" in stiv("data", "check", folder)[1]
    refused("data", "look", folder, says="0000.mp4 is a pipe")
    refused("eval", "--folder", folder, says="0000.mp4 is a pipe")
    (folder / "captions.jsonl").unlink()
    os.mkfifo(folder / "captions.jsonl")
    for command in ("check", "look"):
        refused("data", command, folder, says="captions.jsonl is a pipe")


def test_a_playlist_opens_no_neighbour(here):
    folder = make_samples("clips", n=2)
    clip = folder / "clips/0000.mp4"
    clip.write_text("ffconcat version 1.0\nfile '0001.mp4'\n")
    assert "0000.mp4 can't be read as a video" in stiv("data", "check", folder)[1]
    refused("data", "look", folder, says="0000.mp4 can't be read as a video")


def test_pictures_in_silence(here, monkeypatch):
    "Pillow warns of broken EXIF and of large pictures; a panorama's error names its file"
    Image.new("RGB", (8, 8)).save("a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\xff"*40)
    Image.new("L", (40, 30)).save("large.png")
    with monkeypatch.context() as patched, warnings.catch_warnings():
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 1000)   # from where on it warns
        warnings.simplefilter("error")
        assert read_image("a.jpg").shape == (3, 8, 8)
        assert read_image("large.png").shape == (3, 30, 40)
    Image.new("L", (60_000, 1)).save("panorama.png")
    with pytest.raises(ValueError, match="panorama.png has 1x60000 pixels and would be resized"):
        read_image("panorama.png", size=256)


# Numbers

@pytest.mark.parametrize("args, says", [
    (["check", "clips", "--n-frames", "0"],      "n_frames=0"),
    (["check", "clips", "--stride", "-1"],       "stride=-1"),
    (["check", "clips", "--stride", "9" * 400],  "stride=9"),
    (["check", "clips", "--size", "0"],          "size=0"),
    (["look", "clips", "--stride", "-1"],        "stride=-1"),
    (["look", "clips", "--n", "9" * 400],        "n=9"),
    (["make", "new", "--seed", "-1"],            "seed=-1"),
    (["make", "new", "--seed", str(2**63)],      "seed="),
    (["make", "new", "--n", "1000000000"],       "n=1000000000"),
    (["make", "new", "--size", "100000"],        "size=100000"),
    (["make", "new", "--n-frames", "0"],         "n_frames=0"),
    (["make", ""],                               "no name"),
])
def test_data_refuses(here, args, says):
    make_samples("clips", n=1)
    before = {p.name for p in here.iterdir()}
    refused("data", *args, says=says)
    assert {p.name for p in here.iterdir()} == before


# Streams and folders

def test_a_broken_stream_fills_no_cache(here, encoders):
    "19 of 20 rows broken: no copies of one clip, and the file's name in the error"
    from datasets import Dataset
    good = (make_samples("clips", n=1) / "clips/0000.mp4").read_bytes()
    rows = [dict(mp4=good, caption="a")] + [dict(mp4=b"no video", caption="b")]*19
    (here / "rows").mkdir()
    Dataset.from_list(rows).to_parquet("rows/x.parquet")
    stream = ClipStream("rows", 20)
    with pytest.raises(ValueError, match="'rows': 4 of 5 rows seen can't be used, first row 1"):
        fill_cache("latents", stream, *encoders, 20, shard=20, chunk=4)
    assert not list((here / "latents").glob("shard-*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no signal that ends a process at once")
def test_a_killed_data_make_can_be_run_again(here):
    "At any moment there is no folder, or all of it"
    code = """
import os, stiv_nb.data.folder as f
save, left = f.Video.save, [4]
def last(*args, **kwargs):
    left[0] -= 1
    if not left[0]: os.kill(os.getpid(), 9)
    return save(*args, **kwargs)
f.Video.save = last
f.make_samples('clips', n=5)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (here / "clips").exists()
    assert stiv("data", "make", "clips", "--n", 3) == (0, "clips")
    assert "3 clips, 24 frames, no problems" in stiv("data", "check", "clips")[1]


def test_check_says_what_is_trained_on(here):
    films = [torch.from_numpy(np.zeros((40, 3, 36, 64), np.uint8))]*2
    write_folder("films", films, ["wide", "wide"], suffix=".gif")
    assert "training sees 56% of the area and 20% of the time" in stiv("data", "check", "films")[1]
    code, text = stiv("data", "check", "films", "--stride", 2, "--size", "36x64")
    assert "training sees 100% of the area and 38% of the time" in text
