"""Captions from a server over processes: it fails, and nothing is lost or done twice"""
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stiv_nb.core.server import stand_in
from stiv_nb.data.folder import read_captions, write_folder
from stiv_nb.data.shapes import ShapeWorld
from stiv_nb.data.video import to_uint8
from stiv_nb.engine.captioners import (
    AskedCaptioner, ToyCaptioner, caption_stage, category_stage, frames_clip)
from stiv_nb.engine.probe import probe_stage
from stiv_nb.engine.run import Engine, run_engine

N = 6


def test_a_server_that_fails_ends_the_run_and_the_next_run_goes_on(tmp_path):
    films = to_uint8(ShapeWorld(n_objects=2, seed=5).batch(range(N))[0])
    write_folder(tmp_path / "made", films, [""] * N)
    asked, up = [], []

    def answer(text, images):
        if len(asked) >= 3 and not up: raise ConnectionResetError   # no answer
        asked.append(text)
        frames = [np.array(Image.open(io.BytesIO(image))) for image in images]
        return ToyCaptioner()(frames_clip(frames))

    with stand_in(answer) as server:
        captioner = AskedCaptioner(replace(server, tries=1))
        describe = caption_stage(captioner, side=32), category_stage()
        engine = Engine((probe_stage(),), describe=describe)
        how = engine, tmp_path / "made" / "clips", tmp_path / "out"
        with pytest.raises(OSError, match=server.address): run_engine(*how, n_workers=2)
        assert not (tmp_path / "out" / "captions.jsonl").exists()
        known = len((tmp_path / "out" / "written.jsonl").read_text().splitlines())
        n_asked = len(asked)                       # two may have come at once
        assert 1 <= known <= n_asked < N
        up.append(True)
        report = run_engine(*how)
    assert len(asked) == n_asked + N - known       # what was answered and noted is not asked again
    assert (report.n_clips, report.n_silent) == (N, 0)
    captions = {row["caption"] for row in read_captions(tmp_path / "out")}
    assert captions == {ToyCaptioner()(film) for film in films}
    rows = map(json.loads, (tmp_path / "out" / "rows.jsonl").read_text().splitlines())
    assert {row["category"] for row in rows} == {"shapes"}
