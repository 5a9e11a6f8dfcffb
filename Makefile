# `make setup` once, `make demo` for the main job, `make test` before you push; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test docs lab run prepare wheel clean

help:      ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP) ## .venv with the package and its tools; does nothing when it is up to date

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "stiv_nb needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.12" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## train everything from nothing (seven minutes or more), judge it, write a report
	$(BIN)/stiv demo

test: setup ## everything that CI checks, one line per step
	@$(BIN)/python docs/check.py

docs: setup ## README.md, and the site in _site/site
	$(BIN)/python docs/nbdocs.py readme
	$(BIN)/python docs/nbdocs.py site

lab: setup ## JupyterLab at the home page
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) index.ipynb

run: setup ## run the notebooks that have saved outputs again, and save the new ones
	$(BIN)/nbdev_export
	$(BIN)/python docs/run_nbs.py

prepare: setup ## before a commit: export the modules, clean the notebooks, write README.md
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_clean --fname index.ipynb
	$(BIN)/python docs/nbdocs.py readme

wheel:     ## the files of a release, built and tried outside the checkout: minutes
	@$(PYTHON) docs/release.py wheel

clean:     ## what can be built again; .venv stays
	rm -rf _site _proc _docs build dist *.egg-info .pytest_cache .ruff_cache
	find . -path './$(VENV)' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 | xargs -0 rm -rf
