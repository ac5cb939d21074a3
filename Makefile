# `make help` lists what there is. Only `demo`, `test` and `setup` change the machine (Debian packages, as
# root or with sudo); the others need Python and git alone.

SHELL := /bin/bash
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# A worker that has done its part takes over some of the other's: the slow tests stand together.
PARALLEL := -n auto --dist worksteal
# Guests run in streams side by side, a libvirtd each; those of one file share a parent, and stay together.
# Files in the order given, guests first: xdist would begin with the files that have the most tests, and end
# with those that have few tests and many guests, one stream waiting for the other.
STREAMS := -v -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
# Where bytecode may not be written, each of pytest's processes would compile all tests anew: 2 s each.
unexport PYTHONDONTWRITEBYTECODE
# One test instead of all: make unit T=tests/unit/seal/test_device.py::test_name
# Building images and a private libvirtd take root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=http_proxy,https_proxy,SEVFORK_DEBIAN_MIRROR,SEVFORK_VECTORS)

.PHONY: help demo test test-hw setup venv unit test-fast lint format bench bench-quick fetched clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/  make \1@/' | awk -F@ '{ printf "%-18s%s\n", $$1, $$2 }'

demo: setup  ## install what is needed, build an image, boot a Redis, fork it, show the children
	$(AS_ROOT) $(BIN)/python -m scripts.demo

test: setup lint fetched  ## every test, real guests included (T=... for one)
ifdef T
	$(AS_ROOT) $(PYTEST) $(T)
else
	$(PYTEST) -q $(PARALLEL) tests/unit
	$(AS_ROOT) $(PYTEST) $(STREAMS) tests/vm tests/integration
endif

setup:  ## Debian packages, virtual environment, and what this machine can do
	scripts/setup

venv:  ## the virtual environment alone: no apt, no root
	@scripts/venv

unit: venv  ## unit tests, in parallel (T=... for one): under a minute on two cores
	$(PYTEST) -q $(if $(T),$(T),$(PARALLEL) tests/unit)

test-fast: venv  ## unit tests, and those against the machine's own tools that boot no guest
	$(PYTEST) -q $(PARALLEL) $(or $(T),tests/unit tests/integration -m "not machine")

lint: venv  ## ruff, mypy, and the contracts on who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-hw: setup  ## on a machine with SEV-SNP or TDX: from the image to a warm fork, and a report to send us
	$(AS_ROOT) $(BIN)/python -m scripts.hardware

bench: setup  ## what sevfork costs beside its peers, one table (40 minutes; bench-quick: 5)
	$(AS_ROOT) $(BIN)/python -m scripts.bench

bench-quick: setup  ## the same with 100 MiB and one child only
	$(AS_ROOT) $(BIN)/python -m scripts.bench --quick

# What tests need and the project does not carry: schemas of a libvirt that knows SNP and TDX, CRIU's own
# protocol file, evidence of public projects. Without them those tests are skipped, and the summary says so.
fetched: build/libvirt-schemas build/criu-rpc.proto build/genuine-samples

build/libvirt-schemas:
	-scripts/libvirt-schemas

build/criu-rpc.proto:
	-scripts/criu-protocol

build/genuine-samples: scripts/genuine-samples tests/vectors/genuine.toml
	-scripts/genuine-samples

clean:  ## what was built
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
