"""Reads everything about the package from settings.ini, as nbdev does."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def words(key):
    "The space-separated entries of `key`; so no requirement may contain a space"
    return cfg.get(key, "").split()


def absolute(text):
    "`text` with its relative links made absolute, since PyPI has none of the files"
    def target(m):
        kind = "raw" if m[1].startswith("!") else "blob"   # a picture, or a page
        return f"{m[1]}({cfg['git_url']}/{kind}/{cfg['branch']}/{m[2]})"
    return re.sub(r"(!?\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)", target, text)


extras = {k.removesuffix("_requirements"): words(k) for k in cfg if k.endswith("_requirements")}
readme = ROOT / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    long_description=absolute(readme.read_text(encoding="utf-8")) if readme.exists() else "",
    long_description_content_type="text/markdown",
    license=cfg["license"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": f"{cfg['doc_host']}{cfg['doc_baseurl']}",
                  "Changelog": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
                  "Issues": f"{cfg['git_url']}/issues"},
    classifiers=["Programming Language :: Python :: 3", "Framework :: Jupyter",
                 "Intended Audience :: Education", "Intended Audience :: Science/Research",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence"],
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["assets/**/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=words("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": words("console_scripts"),
                  "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
