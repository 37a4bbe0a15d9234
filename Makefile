# Everything runs in a virtual environment of its own; programs that tests build go into the user's cache folder.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint golden bench bench-sim bench-routing bench-picker bench-gateway bench-replay bench-adapters \
  bench-density bench-scaling faults \
  engine-venv validate-engine cluster-assets e2e-argocd e2e-kind clean

help:            ## what there is
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: $(READY)   ## compile an example for two environments, explain a value, make a mistake
	@PATH="$(abspath $(BIN)):$$PATH" examples/demo.sh

test: $(READY)   ## all tests but those of test-full
	$(BIN)/python -m pytest --ignore=tests/argocd

test-full: $(READY) ## everything: also Argo CD, and the cluster's tests on the oldest Kubernetes
	$(BIN)/python -m pytest
	AIBRIX_KUBERNETES=1.34 $(BIN)/python -m pytest $(addprefix tests/cluster/test_,acceptance.py groups.py kinds.py node.py serving.py)

lint: $(READY)   ## ruff, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(READY) ## write specs/ and the expected trees of the examples anew
	$(BIN)/aibrix-compile schema -o specs
	$(BIN)/python -m tests.golden.trees

bench: $(READY)  ## compile times beside Helm and cdk8s, in one run; the mock engine's own cost
	$(BIN)/python -m tests.bench.run
	$(BIN)/python -m tests.bench.mock

bench-sim: $(READY) ## the simulator: speed, memory, routing side by side; TRACES=folder of public traces
	$(BIN)/python -m tests.bench.simulation $(if $(TRACES),--traces $(TRACES))

bench-routing: $(READY) ## routing strategies by load, knowledge and number of pickers, simulated; TRACES=folder
	$(BIN)/python -m tests.bench.routing $(if $(TRACES),--traces $(TRACES))

bench-picker: $(READY) ## what a pick costs, and what the picker's observation does
	$(BIN)/python -m tests.bench.picker
	$(BIN)/python -m tests.bench.scrape

bench-gateway: $(READY) ## the gateway beside four routers of others: requests/s, CPU, latency, memory; ARGS=--quick
	$(BIN)/python -m tests.bench.gateway.run $(ARGS)

bench-replay: $(READY) ## a public trace through the real gateway and through the simulator; TRACES=folder
	$(BIN)/python -m tests.bench.replay $(if $(TRACES),--traces $(TRACES)) $(ARGS)

bench-adapters: $(READY) ## adapters by the hundred on a real control plane; our sidecar beside AIBrix's; what the plugin costs vLLM
	$(BIN)/python -m tests.bench.sidecars
	$(BIN)/python -m tests.bench.plugin
	$(BIN)/python -m tests.bench.adapters $(ARGS)

bench-scaling: $(READY) ## strategies of scaling side by side, simulated, and what deciding and watching cost; TRACES=folder, a quarter of an hour
	$(BIN)/python -m tests.bench.watching
	$(BIN)/python -m tests.bench.scaling $(if $(TRACES),--traces $(TRACES)) $(ARGS)

bench-density: $(READY) ## GPU-hours of sets of adapters apart and together, simulated
	$(BIN)/python -m tests.bench.density

faults: $(READY) ## what breaks, on ours and on those routers, side by side; ARGS="--probe NAME"
	$(BIN)/python -m tests.bench.gateway.faults $(ARGS)

engine-venv: $(READY) ## a real vLLM on CPU for tests: 7 GB in the cache folder, five minutes
	$(BIN)/python -m tests.engine.venv

validate-engine: $(READY) ## the simulator beside a real vLLM on one core: a quarter of an hour
	$(BIN)/python -m tests.engine.validate

cluster-assets: $(READY) ## get Kubernetes, etcd and the kinds of others ahead of the tests
	$(BIN)/python -m tests.cluster.assets $(MINORS)

e2e-argocd: $(READY) ## an example through a real Argo CD
	$(BIN)/python -m pytest tests/argocd

e2e-kind: $(READY) ## the cluster's tests on kind; needs docker
	AIBRIX_CLUSTER=kind $(BIN)/python -m pytest tests/cluster --ignore=tests/cluster/test_kind.py \
	  --ignore=tests/cluster/test_kind_nodes.py --ignore=tests/cluster/test_lifetime.py --ignore=tests/cluster/test_groups.py

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
