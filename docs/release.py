"""A release: its files, built and tried outside the checkout, and what the changelog says of it.

    python docs/release.py wheel             # build, install and try in fresh environments
    python docs/release.py wheel --out dist  # and keep the files
    python docs/release.py notes v0.1.0      # that version's part of CHANGELOG.md

It needs Python with pip and venv, and git; it does not need the project's own environment. The
environments stand in a temporary folder, which goes afterwards; pip fetches what they hold.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 60                # of a file; PyPI takes 100
TOOLS = ("build", "twine")
OURS = "stiv_nb/"           # what a wheel may hold, beside its own .dist-info
OF_SDIST = {"setup.py", "setup.cfg", "settings.ini", "pyproject.toml", "MANIFEST.in", "PKG-INFO",
            "README.md", "LICENSE"}
RELATIVE = re.compile(r"\]\((?!https?:|#|mailto:)[^)]*\)")   # a link that leads nowhere on PyPI
PROMPT = "a red circle moving left"
IMPORTS = """
import importlib, pkgutil, sys
from pathlib import Path
import stiv_nb
where = Path(stiv_nb.__file__).resolve()
assert where.is_relative_to(Path(sys.prefix).resolve()), f"{where} is not in {sys.prefix}"
names = [m.name for m in pkgutil.walk_packages(stiv_nb.__path__, "stiv_nb.")]
for name in names: importlib.import_module(name)
print(len(names), "modules, version", stiv_nb.__version__)
"""
LOOK = """
from stiv_nb.data.pictures import read_video
clip, _ = read_video("out.mp4")
moved = (clip[1:] - clip[:-1]).abs().amax().item()
assert clip.ndim == 4 and len(clip) > 1 and moved > .1, f"{tuple(clip.shape)}, moved {moved:.2f}"
print(f"{len(clip)} frames of {clip.shape[-1]} x {clip.shape[-2]} pixels, and something moves")
"""


class Failed(Exception):
    "A release can't be made like this; the message says why, and the fix"


def settings():
    "The section of settings.ini"
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


# --- the changelog

def changes(
    text,     # of CHANGELOG.md
    version,  # such as "0.1.0"
):            # Markdown of its part, without the heading
    "What a changelog says of a version, which must have its date"
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        name, _, date = head.partition(",")
        if name.strip() != version: continue
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date.strip()):
            raise Failed(f"CHANGELOG.md heads {version} with {date.strip()!r}; put the date there")
        return body.strip() + "\n"
    raise Failed(f"CHANGELOG.md has no part '## {version}, DATE'")


def notes(tag):
    "The changelog's part of the version that is tagged, which settings.ini must name too"
    version = settings()["version"]
    if tag != f"v{version}":
        raise Failed(f"the tag is {tag}, and settings.ini says {version}; see CONTRIBUTING.md")
    return changes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)


# --- building

def run(*command, cwd):
    "What a command prints; none of its environment leads back to the checkout"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, text=True, encoding="utf-8",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.strip()[-3000:]
        raise Failed(f"{' '.join(map(str, command))[:200]}\nended with {done.returncode}:\n{said}")
    return done.stdout.strip()


def environment(folder):
    "A fresh virtual environment; the function that names a program in it"
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    suffix = ".exe" if os.name == "nt" else ""
    return lambda name: programs / f"{name}{suffix}"


def copy_checkout(to):
    "The files that git tracks or would track, so that nothing built before gets in"
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).is_file(): continue   # deleted, and not committed yet
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, to / name)


def build(tmp, out):
    "Builds the sdist, the wheel from the sdist, and lets twine check both; wheel and sdist"
    source = tmp / "source"
    copy_checkout(source)
    program = environment(tmp / "tools")
    run(program("python"), "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt",
        *TOOLS, cwd=tmp)
    run(program("python"), "-m", "build", "--outdir", out, source, cwd=tmp)
    made = [*out.glob("*.whl"), *out.glob("*.tar.gz")]
    if len(made) != 2: raise Failed(f"{len(made)} files were built, not a wheel and an sdist")
    run(program("python"), "-m", "twine", "check", "--strict", *made, cwd=tmp)
    return made


# --- what is inside

def check_wheel(names, description, wanted):
    """Raises unless the wheel holds the package, all of it, and nothing else.

    `names` are its files, `description` is what PyPI will show, `wanted` the package's files.
    """
    foreign = [n for n in names if not n.startswith(OURS) and ".dist-info/" not in n]
    if foreign: raise Failed(f"the wheel holds {', '.join(foreign[:5])}, which is no part of it")
    missing = sorted(wanted - {*names})
    if missing: raise Failed(f"the wheel lacks {', '.join(missing[:5])}; see setup.py")
    links = RELATIVE.findall(description)
    if links: raise Failed(f"the description links to {links[0][1:]}, which is not on PyPI")


def check_sdist(names, wanted):
    "Raises unless the sdist holds what building needs, and nothing else; names without its folder"
    extra = [n for n in names if not n.startswith(OURS) and n not in OF_SDIST
             and ".egg-info/" not in n]
    if extra: raise Failed(f"the sdist holds {', '.join(extra[:5])}; see MANIFEST.in")
    missing = sorted((wanted | {"setup.py", "settings.ini"}) - {*names})
    if missing: raise Failed(f"the sdist lacks {', '.join(missing[:5])}; see MANIFEST.in")


def check_contents(wheel, sdist, source):
    "Checks both files against the package in `source`; says what is inside"
    package = [f for f in (source / OURS).rglob("*") if f.is_file()]
    wanted = {f.relative_to(source).as_posix() for f in package}
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        description = z.read(metadata).decode().partition("\n\n")[2]
        check_wheel(names, description, wanted)
    with tarfile.open(sdist) as t:
        check_sdist([m.name.partition("/")[2] for m in t.getmembers() if m.isfile()], wanted)
    for f in (wheel, sdist):
        mb = f.stat().st_size/1e6
        if mb > MOST_MB: raise Failed(f"{f.name} has {mb:.0f} MB, more than {MOST_MB}")
    weights = sum(n.endswith(".safetensors") for n in names)
    return f"{len(wanted)} files of the package, {weights} of them weights; nothing else"


# --- trying it

def try_wheel(wheel, tmp):
    "Installs the wheel and uses it as somebody does who has no checkout; lines of a report"
    program = environment(tmp / "venv")
    python, stiv = program("python"), program("stiv")
    here = tmp / "elsewhere"
    here.mkdir()
    pip = (python, "-m", "pip")

    def install():
        run(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=here)
        run(*pip, "check", cwd=here)
        return "into a fresh environment; pip check finds no conflict"

    def command(*args):
        said = run(stiv, *args, cwd=here).splitlines()
        return f"{len(said)} lines"

    def draw():
        run(stiv, "sample", PROMPT, "-o", "out.mp4", cwd=here)
        return run(python, "-c", LOOK, cwd=here)

    yield "install", install
    yield "import", lambda: run(python, "-c", IMPORTS, cwd=here)
    yield "stiv --help", lambda: command("--help")
    yield "stiv doctor", lambda: command("doctor")
    yield "stiv recipe --list", lambda: command("recipe", "--list")
    yield "stiv sample", draw


def wheel(out):
    "Builds, checks and tries the files of a release; into `out`, if it is named"
    begin = time.time()

    def step(name, f):
        start = time.time()
        said = f()
        print(f"ok  {name:<20}{time.time() - start:6.1f} s  {said}", flush=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        tmp = Path(tmp).resolve()
        made = []

        def built():
            made[:] = build(tmp, tmp / "dist")
            return ", ".join(f"{f.name} {f.stat().st_size/1e6:.1f} MB" for f in made)

        step("build", built)
        step("contents", lambda: check_contents(*made, tmp / "source"))
        for name, f in try_wheel(made[0], tmp): step(name, f)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for f in made: shutil.copy(f, out)
    print(f"the wheel works without the checkout; all in {time.time() - begin:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    parts.add_parser("wheel").add_argument("--out", type=Path, help="folder that keeps the files")
    parts.add_parser("notes").add_argument("tag", help="of the release, such as v0.1.0")
    args = parser.parse_args()
    try:
        if args.what == "wheel": wheel(args.out)
        else: print(notes(args.tag), end="")
    except Failed as e: sys.exit(str(e))


if __name__ == "__main__": main()
