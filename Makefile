# The commands of the README. Each installs what it needs into .venv first.
PYTHON ?= python3
EXTRA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e
export WORKBENCH_WORKSPACE ?= $(CURDIR)/workbench-workspace
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint lab voila bench bench-gpu bench-serving browser test-gpu test-heavy test-models test-serving clean

run: .venv/installed ## the whole flow on the bundled model, as a notebook and as a report
	@mkdir -p runs
	papermill notebooks/tour.ipynb runs/tour.ipynb -p summary runs/tour.txt -k python3 --log-level ERROR --no-progress-bar
	jupyter nbconvert --config notebooks/report_config.py --to html runs/tour.ipynb --log-level ERROR
	@cat runs/tour.txt
	@echo "notebook  $(CURDIR)/runs/tour.ipynb"
	@echo "report    $(CURDIR)/runs/tour.html"
	@echo "Go on with: make lab   (the tour in JupyterLab)   or   make voila   (the panels as a dashboard)"

test: .venv/frameworks browser ## every test, browser tests included
	pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

test-heavy: .venv/frameworks ## trainings, searches and lessons that take long
	pytest -m heavy -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

test-serving: .venv/serving ## packages under real Triton, Prometheus, haproxy, nginx, podman and kubectl, fetched first
	pytest -m serving -n 0 tests/exporters tests/serving

test-models: .venv/installed ## every model of ONNX's own test suites: read, opened, run, compared
	pytest -m models tests/models

test-gpu: .venv/frameworks ## what takes an NVIDIA GPU; fails where there is none
	pytest -m gpu -n 0 tests/gpu

lint: .venv/installed ## types, style and layers
	mypy && ruff check && ruff format --check && lint-imports

lab: .venv/installed ## JupyterLab on the tour
	jupyter lab notebooks/tour.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

voila: .venv/installed ## the dashboard
	voila notebooks/dashboard.ipynb --template=lab --token --MappingKernelManager.cull_idle_timeout=600 --MappingKernelManager.cull_interval=60

bench: .venv/peers ## speed and memory, peers side by side
	$(BIN)/python -m benchmarks

bench-serving: .venv/frameworks ## exported packages beside KServe, MLServer, FastAPI, BentoML and Triton, which are fetched first
	$(BIN)/python benchmarks/serving.py

bench-gpu: .venv/peers ## speed on an NVIDIA GPU beside trtexec, PyTorch and ONNX Runtime; writes benchmarks/results
	$(BIN)/python benchmarks/gpu.py --write

browser: .venv/installed
	@python tests/browser/chromium.py

# Debian keeps venv in a package of its own.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv .venv; } || { rm -rf .venv; echo "Install Python's venv module first: apt-get install python3-venv" >&2; exit 1; }

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[$(EXTRA),openvino,dev]' || { [ $(EXTRA) = gpu ] && echo "The gpu extra cannot be installed here; going on with cpu." >&2 && $(INSTALL) '.[cpu,openvino,dev]'; }
	@touch $@

# Only tests need them: what formats, backends, metrics and cross-checks of other libraries take.
.venv/frameworks: .venv/installed
	$(INSTALL) '.[torch,tensorflow,litert,mnn,tensorrt-rtx,cuda,detection,loadgen,nncf,kubernetes,provenance,monitoring,triton,grpc]'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps tf_keras tensorflow-serving-api # they ask for plain tensorflow
	@touch $@

# Only test-serving needs them: programs that come as wheels; the tests unpack Debian's by themselves.
.venv/serving: .venv/frameworks
	$(INSTALL) '.[serving-tests]'
	@touch $@

# Only benchmarks need them: peers.
.venv/peers: .venv/frameworks
	$(INSTALL) '.[bench]'
	@touch $@

clean: ## removes what the other targets made here, the environment included
	rm -rf .venv .venv-peers runs workbench-workspace
