# make demo  fork a running Redis and show it; make test  run every test, real guests included.
# Both set up what they need first (Debian packages as root or with sudo).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Building images and a private libvirtd take root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=http_proxy,https_proxy,SEVFORK_DEBIAN_MIRROR,SEVFORK_VECTORS)

.PHONY: setup demo test test-fast lint bench clean

setup:
	scripts/setup

demo: setup
	$(AS_ROOT) $(BIN)/python scripts/demo.py

# Schemas of a libvirt that knows SNP and TDX; without them those tests are skipped, and say so.
build/libvirt-schemas:
	-scripts/libvirt-schemas

test: setup lint build/libvirt-schemas
	$(AS_ROOT) $(BIN)/python -m pytest tests

test-fast: setup build/libvirt-schemas
	$(BIN)/python -m pytest tests --ignore=tests/vm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python scripts/bench_verify.py

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
