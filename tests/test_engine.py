"""The data engine over processes: killed, resumed, on Ray"""
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stages
from stiv_nb.data.folder import VideoFolder
from stiv_nb.data.pictures import video_size
from stiv_nb.engine.composed import Film, Studio, write_broken, write_films
from stiv_nb.engine.journal import Journal
from stiv_nb.engine.run import run_engine

posix = pytest.mark.skipif(os.name == "nt", reason="kills processes by signals")
N = 8


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    "Eight films of 16 to 30 frames, and five files that no stage can use"
    folder = tmp_path_factory.mktemp("films")
    studio = Studio(size=(48, 64))
    made = [Film(str(i), studio.clip(f"film {i}", 1., 16 + 2*i), {}) for i in range(N)]
    write_films(folder, made, 12)
    write_broken(folder / "broken")
    return folder


@pytest.fixture(scope="session")
def reference(films, tmp_path_factory):
    "What a run that nobody disturbs makes of them"
    folder = tmp_path_factory.mktemp("reference")
    run_engine(stages.engine(folder / "log"), films, folder / "out")
    return read(folder / "out")


def read(out):
    "What is in a folder of clips; x264 does not always give the same bytes"
    found = {name: (out / name).read_bytes() for name in ("rows.jsonl", "captions.jsonl")}
    return found | {path.name: video_size(path) for path in (out / "clips").iterdir()}


def lines(path): return path.read_text().splitlines() if path.exists() else []


@posix
def test_killed_at_any_moment_it_loses_and_doubles_nothing(films, reference, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import stages\n"
            "from stiv_nb.engine.run import run_engine\n"
            "if __name__ == '__main__':\n"
            "    made = stages.engine(sys.argv[2], .05)\n"
            "    run_engine(made, sys.argv[3], sys.argv[4], int(sys.argv[5]))\n")
    script = tmp_path / "run.py"
    script.write_text(code)
    journals = [out / "measured.jsonl", out / "written.jsonl"]
    done = []
    for journal, workers in zip(journals, (1, 2)):
        run = [sys.executable, script, Path(stages.__file__).parent, log, films, out, str(workers)]
        p = subprocess.Popen([*map(str, run)])
        end = time.time() + 60
        while len(lines(journal)) < 2:
            assert p.poll() is None and time.time() < end
            time.sleep(.01)
        p.kill()
        p.wait()
        assert not (out / "captions.jsonl").exists()
        done.append(len(lines(journal)))
        with journal.open("a") as f: f.write('{"file": "7.mp4", "rows": [')   # half a line
    report = run_engine(stages.engine(log, .05), films, out)
    assert read(out) == reference
    assert 2 <= done[0] and report.counts[0].films == 0        # all was measured in the second run
    for journal in journals:
        names = [line["file"] for line in Journal(journal).lines]
        assert len(names) == len(set(names))                   # each film once
    assert len(lines(log)) <= 2*N + 4      # only films of killed workers were measured again
    assert len([*VideoFolder(out, size=32)]) == 2*N


@posix
def test_films_that_kill_their_workers_are_named(films, reference, tmp_path):
    made = stages.engine(tmp_path / "log", deaths=tmp_path)
    report = run_engine(made, films, tmp_path / "out", n_workers=2)
    assert (report.n_rows, report.n_clips, len(report.skipped)) == (2*N - 2, 2*N - 2, 6)
    assert [s["file"] for s in report.skipped if s["stage"] == "worker"] == ["5.mp4"]
    clips = {name: data for name, data in read(tmp_path / "out").items() if name.endswith(".mp4")}
    assert clips.items() < reference.items()
    assert len(lines(tmp_path / "log")) == 2*N - 2             # nothing was measured twice


@posix
def test_a_film_that_hangs_is_named(films, reference, tmp_path):
    made = stages.engine(tmp_path / "log", hangs=True)
    report = run_engine(made, films, tmp_path / "out", n_workers=2, patience=6)
    (late,) = (s for s in report.skipped if s["stage"] == "worker")
    assert late["file"] == "6.mp4" and "not done with it after 6 s" in late["why"]
    assert report.n_clips == 2*N - 2
    clips = {name: data for name, data in read(tmp_path / "out").items() if name.endswith(".mp4")}
    assert clips.items() < reference.items()


@posix
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_on_ray(films, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))   # of Ray's workers
    made = stages.engine(tmp_path / "log", deaths=tmp_path)
    report = run_engine(made, films, tmp_path / "out", n_workers=2, ray=True)
    assert [s["file"] for s in report.skipped if s["stage"] == "worker"] == ["5.mp4"]
    clips, whole = read(tmp_path / "out"), reference.copy()
    assert len(clips) == len(whole) - 2
    for found in (clips, whole): del found["rows.jsonl"], found["captions.jsonl"]
    assert clips.items() < whole.items()
