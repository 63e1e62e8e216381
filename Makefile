# The course in two commands: `make lab` opens it, `make test` runs every test.

PYTHON ?= python3
LAB_ARGS ?=
CH ?=

RUN := .venv/bin/python
SETUP := @PYTHON="$(PYTHON)" sh .ci/setup

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev fetch lab reset test check soak bench store look clean

help: ## this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

lab: setup ## set everything up and open the course in JupyterLab (LAB_ARGS=--no-browser)
	@$(RUN) -m trainlab fetch
	@$(RUN) -m trainlab lab $(LAB_ARGS)

test: setup-dev ## set everything up and run every test, every chapter included
	@$(RUN) -m trainlab fetch
	@$(RUN) tests/run_all.py

check: setup-dev ## the fast part of the tests: ruff, mypy, quick tests
	@$(RUN) -m trainlab fetch
	@$(RUN) tests/run_all.py --quick

reset: setup ## begin a chapter afresh, your version is kept: make reset CH=02
	@$(RUN) -m trainlab reset $(if $(CH),"$(CH)",$(error name the chapter: make reset CH=02))

fetch: setup ## fetch the course's data, for later without a network
	@$(RUN) -m trainlab fetch

setup: ## the environment in .venv, nothing else
	$(SETUP) lab

setup-dev:
	$(SETUP) dev

soak: setup-dev ## the tests that are too long for every run
	@$(RUN) tests/run_all.py --soak

bench: setup-dev ## compare the speed of train with other loops, time the live panels and saving
	@$(RUN) -m trainlab fetch mnist5k
	@$(RUN) tests/bench/run.py
	@$(RUN) tests/bench/panels.py
	@$(RUN) tests/bench/saving.py

store: setup-dev ## for authors: run a chapter and store its outputs: make store CH=02
	@$(RUN) -m trainlab fetch
	@$(RUN) tests/chapters/store.py $(if $(CH),$(CH),$(error name the chapter: make store CH=02))

look: setup-dev ## for authors: pictures of a chapter in both themes: make look CH=02
	@$(RUN) tests/browser/look.py $(if $(CH),$(CH),$(error name the chapter: make look CH=02))

clean: ## remove the environment and what tests left; my/ and the fetched data stay
	rm -rf .venv .bench artefacts .pytest_cache .mypy_cache .ruff_cache
