"""What docs/release.py lets pass: a changelog's part, the files of a wheel and of an sdist."""
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT/"docs"))
from release import Failed, changes, check_sdist, check_wheel, notes, settings

LOG = """# Changelog

## 0.3.0, not released yet

- soon

## 0.2.0, 2027-01-31

### Library
- new

## 0.1.0, 2026-12-01
- first
"""
PACKAGE = {"stiv_nb/__init__.py", "stiv_nb/assets/toy/model.safetensors"}
INFO = "stiv_nb-0.1.0.dist-info/METADATA"


def test_changes_are_those_of_one_version():
    assert changes(LOG, "0.2.0") == "### Library\n- new\n"
    assert changes(LOG, "0.1.0") == "- first\n"


@pytest.mark.parametrize("version, said", [("0.3.0", "not released yet"), ("0.2", "has no part")])
def test_a_version_without_date_or_part_is_no_release(version, said):
    with pytest.raises(Failed, match=said): changes(LOG, version)


def test_the_tag_is_the_version_of_the_settings():
    with pytest.raises(Failed, match="settings.ini says"): notes("v99.0.0")
    text = (ROOT/"CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(settings()['version'])}, ", text, re.M)


def test_a_wheel_holds_the_package_and_nothing_else():
    check_wheel([*PACKAGE, INFO], "[a](https://x.org) [b](#start)", PACKAGE)
    for names, description, said in (
            ([*PACKAGE, INFO, "tests/test_a.py"], "", "holds tests/test_a.py"),
            ([*PACKAGE, INFO, "nbs/010_checks.ipynb"], "", "holds nbs/010_checks.ipynb"),
            (["stiv_nb/__init__.py", INFO], "", "lacks stiv_nb/assets/toy/model.safetensors"),
            ([*PACKAGE, INFO], "![a](index_files/a.png)", r"links to \(index_files/a.png\)")):
        with pytest.raises(Failed, match=said): check_wheel(names, description, PACKAGE)


def test_an_sdist_can_be_built_and_holds_no_tests():
    needed = [*PACKAGE, "setup.py", "settings.ini", "README.md", "PKG-INFO"]
    check_sdist([*needed, "stiv_nb.egg-info/SOURCES.txt"], PACKAGE)
    with pytest.raises(Failed, match="lacks settings.ini"):
        check_sdist([n for n in needed if n != "settings.ini"], PACKAGE)
    with pytest.raises(Failed, match="holds tests/test_a.py"):
        check_sdist([*needed, "tests/test_a.py"], PACKAGE)


def test_workflows_name_what_there_is():
    "Files that a workflow runs exist, and only the jobs that publish may write"
    writers = set()
    for fn in (ROOT/".github/workflows").glob("*.yml"):
        text = fn.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:docs|tests)/\w+\.py", text): assert (ROOT/name).is_file()
        for name in re.findall(r"\b\d{3}_\w+", text): assert (ROOT/"nbs"/f"{name}.ipynb").is_file()
        for name, job in yaml.safe_load(text)["jobs"].items():
            if "write" in job.get("permissions", {}).values(): writers.add(f"{fn.stem}.{name}")
    assert writers == {"pages.colab", "release.pypi", "release.github"}
