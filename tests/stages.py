"""Stages for tests of the data engine: other processes must be able to import them"""
import os
import signal
import time
from functools import partial
from pathlib import Path

from stiv_nb.engine.probe import probe_stage
from stiv_nb.engine.rows import Stage
from stiv_nb.engine.run import Engine


def halves(row, path):
    "Two shots of each film"
    middle = row["stop"] // 2
    return [dict(row, start=a, stop=b) for a, b in ((0, middle), (middle, row["stop"]))]


def slow(row, path, log, seconds):
    "Notes that it has seen a clip, and takes its time"
    time.sleep(seconds)
    with open(log, "a") as f: f.write(f"{row['file']}:{row['start']}\n")
    return [dict(row, length=row["stop"] - row["start"])]


def deadly(row, path, folder):
    "Kills its worker: at film 3 the first time, at film 5 always"
    once = Path(folder) / "once"
    if row["file"] == "5.mp4" or row["file"] == "3.mp4" and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [row]


def hanging(row, path):
    "Never ends with film 6"
    while row["file"] == "6.mp4": time.sleep(1)
    return [row]


def engine(log, seconds=0., deaths=None, hangs=False):
    "Two shots of each film, with their length; `deaths`: a folder, for films that kill"
    stages = [probe_stage(), Stage("halves", halves, {})]
    if hangs: stages.append(Stage("hanging", hanging, {}))
    if deaths: stages.append(Stage("deadly", partial(deadly, folder=str(deaths)), {}))
    counted = partial(slow, log=str(log), seconds=seconds)
    return Engine((*stages, Stage("slow", counted, dict(length="frames"))))
