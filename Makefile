# gymnast: `make demo` and `make test` do all of their own set-up; a second run starts in seconds.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One worker for the tests with an arm over ROS, which keep real time, and one for the others.
WORKERS = -n 2 --dist loadscope

.PHONY: help setup demo test lint docs doctor clean
help:
	@echo "make demo     set up everything, start the simulated station and run the whole loop (about 15 minutes)"
	echo "make test     set up everything, lint and run the tests"
	echo "make setup    only the set-up: system packages, .venv, torch, ROS 2, interfaces"
	echo "make lint     ruff and mypy"
	echo "make docs     the documentation as a site that opens from disk: build/docs/index.html"
	echo "make doctor   what is missing on this machine, and how to get it"
	echo "make clean    remove .venv and everything built"

setup:
	@tools/setup.sh

demo: setup
	@source tools/env.sh
	exec gymnast demo $(ARGS)

test: lint
	@tools/browser.sh
	source tools/env.sh
	exec python -m pytest $(or $(ARGS),$(WORKERS))

lint: setup
	@source tools/env.sh
	echo "ruff check, ruff format, mypy"
	ruff check --quiet . || { echo "make lint: ruff check found problems; \`ruff check --fix .\` mends many" >&2; exit 1; }
	ruff format --check --quiet . || { echo "make lint: files are not formatted; run \`ruff format .\`" >&2; exit 1; }
	mypy || { echo "make lint: mypy found type errors" >&2; exit 1; }

docs: setup
	@source tools/env.sh
	NO_MKDOCS_2_WARNING=1 exec python -m mkdocs build --quiet --strict

doctor: setup
	@source tools/env.sh
	exec gymnast doctor $(ARGS)

clean:
	@rm -rf .venv build dist *.egg-info ros2_ws/build ros2_ws/install ros2_ws/log ros2_ws/src/gymnast_nodes/*.egg-info
