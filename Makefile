# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each makes its own virtual environment in .venv from this project's files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A trained model instead of the demonstration model: make demo MODEL=path/to/my.model
MODEL ?=

# The newest torch, without any framework beside it: what most users install.
MINIMAL := .venv-minimal
TORCH ?= torch==2.13.0

# nequip, which cannot be beside mace-torch: they need different versions of e3nn.
NEQUIP := .venv-nequip

# The oldest versions of everything that we depend on.
OLDEST := .venv-oldest

# MatGL, which brings a framework for graphs and one for materials.
MATGL := .venv-matgl

# Samplers of other packages: openmmtools with what it needs, and i-PI.
SAMPLERS := .venv-samplers

# Tests run in this many processes of one thread and up to 7 GB each.
JOBS ?= 2
# A single one needs no other that hands it its tests.
PYTEST := python -m pytest -n $(patsubst 1,0,$(JOBS)) --dist worksteal --durations 25
test test-%: export OMP_NUM_THREADS = 1
# Folder with exports that several of these find; only for one state of the source.
ARTIFACTS ?=
test test-conformance: export OPENMM_LES_TEST_ARTIFACTS = $(ARTIFACTS)

# Structures and force fields of an example and of tests are read from its files; it is not imported.
DATA := openmmtools==0.27.0

.PHONY: demo test test-conformance test-documents coverage test-minimal test-oldest test-nequip test-matgl test-samplers test-opencl test-all fuzz fuzz-short lint docs notebooks benchmark
.PHONY: gpu-check dist test-dist clean

# torch 2.9 is what openmm-torch 1.5 is built for: with it every backend can be tested.
$(STAMP): pyproject.toml
	@echo "Making $(VENV), once: some minutes and 8 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[cpu,examples,mace,torchforce]' \
	    --group test --group lint --group release
	$(BIN)/python -m pip install --quiet --no-deps $(DATA)
	touch $(STAMP)

# Without a GPU from NVIDIA it runs on OpenMM's CPU platform, unless something else is asked for: OpenMM
# would take OpenCL on the CPU where that is installed, whose minimiser crashes.
demo: $(STAMP)
	$(if $(shell nvidia-smi -L 2>/dev/null | grep ^GPU),,OPENMM_DEFAULT_PLATFORM=$${OPENMM_DEFAULT_PLATFORM:-CPU}) \
	    $(BIN)/python examples/01_md_of_a_peptide.py $(if $(MODEL),--model '$(MODEL)') --output demo-output

test: $(STAMP)
	$(BIN)/$(PYTEST) -m 'not slow and not network and not opencl and not documents' --ignore tests/conformance

# Every family by every path, and the numbers of the original codes.
test-conformance: $(STAMP)
	$(BIN)/$(PYTEST) -m 'not slow and not network and not opencl' tests/conformance

# Every page of the documents and every example, as a reader runs them.
test-documents: $(STAMP)
	$(BIN)/$(PYTEST) -m 'documents and not slow and not network' tests/project

$(MINIMAL)/.installed: PACKAGES = -e . --group test
$(NEQUIP)/.installed: PACKAGES = -e '.[nequip]' --group test
$(MATGL)/.installed: PACKAGES = -e . --group test matgl==4.1.2
$(SAMPLERS)/.installed: PACKAGES = -e '.[examples]' --group test ipi mpiplus netCDF4 numba
$(MINIMAL)/.installed $(NEQUIP)/.installed $(MATGL)/.installed $(SAMPLERS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet $(PACKAGES) '$(TORCH)'
	touch $@

# What depends on torch's version, or on what is installed beside it; `make test` and
# `make test-conformance` run everything else once. Of every family this is what TorchScript makes of
# it; OpenMM and ASE see no difference between families, and one is enough (test_openmm.py).
VERSIONED := tests/artifact/test_artifact.py tests/conformance/test_families.py tests/evaluation/test_arithmetic.py \
    tests/evaluation/test_engine.py tests/export/test_unpickle.py \
    tests/plugin/test_openmm.py tests/plugin/test_saved_systems.py \
    -k 'not (test_families and (test_derivatives or test_a_mesh or test_constant_pressure or test_a_region \
    or test_ase_and_openmm or test_a_saved_system))'
test-minimal: $(MINIMAL)/.installed
	$(MINIMAL)/bin/$(PYTEST) -m 'not slow and not network and not opencl' $(VERSIONED)

# The oldest versions that pyproject.toml allows, chosen by uv.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct -e . --group test
	$(OLDEST)/bin/$(PYTEST) -m 'not slow and not network and not opencl' $(VERSIONED)

# What needs nequip, and nothing else.
test-nequip: $(NEQUIP)/.installed
	$(NEQUIP)/bin/$(PYTEST) -m 'nequip and not slow' tests/export/test_read_nequip.py

# MatGL's own network beside ours. Not part of continuous integration: its installation takes minutes.
test-matgl: $(MATGL)/.installed
	$(MATGL)/bin/$(PYTEST) -m matgl tests/export/test_read_chgnet.py

# The force in openmmtools and i-PI.
test-samplers: $(SAMPLERS)/.installed
	$(SAMPLERS)/bin/python -m pip install --quiet --no-deps $(DATA)
	$(SAMPLERS)/bin/$(PYTEST) tests/mixed/test_lambda_in_samplers.py tests/repex/test_samplers.py

# OpenMM's kernels for GPUs on a CPU: needs an OpenCL device, as Debian's pocl-opencl-icd is one.
test-opencl: $(STAMP)
	$(BIN)/$(PYTEST) -m 'opencl and not slow' tests/plugin/test_opencl.py tests/mixed/test_opencl_mlmm.py

# Which lines of the packages the tests run; lines that TorchScript runs do not count.
coverage: $(STAMP)
	$(BIN)/$(PYTEST) -m 'not slow and not network and not opencl' \
	    --cov openmm_les --cov openmm_les_export --cov-report term:skip-covered --cov-report html:build/coverage

test-all: $(STAMP)
	$(BIN)/$(PYTEST) -m 'not network'

# Damaged and hostile files of every kind, in child processes; a minute, or a quarter of an hour.
fuzz-short fuzz: FUZZ = PYTHONPATH=tests $(BIN)/python -m fuzzing --jobs $(JOBS)
fuzz-short: $(STAMP)
	$(FUZZ) --count 120

fuzz: $(STAMP)
	$(FUZZ) --count 3000

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --group docs
	touch $(VENV)/.docs

# Warnings are errors: a broken link, a name that the API has no more.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -E docs build/docs
	grep -q LESCalculator build/docs/reference/api.html
	@echo "open build/docs/index.html"

# Output of the notebooks, which `make docs` shows: of all that changed, or of NAMES.
NAMES ?=
notebooks: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/execute.py $(NAMES)

benchmark: $(STAMP)
	$(BIN)/python benchmarks/md_step.py

# All about a GPU in a few minutes; without one, the same on the CPU with small systems.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py --output build/gpu_check.json

# The files for a release: a wheel and a source distribution in dist/.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --sdist --wheel --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# Installs that wheel into an environment of its own, with $(TORCH), and tries it; resolves the extras.
test-dist: $(STAMP)
	OPENMM_LES_DIST=dist TORCH='$(TORCH)' $(BIN)/python -m pytest tests/project/test_distribution.py

clean:
	rm -rf $(VENV) $(MINIMAL) $(OLDEST) $(NEQUIP) $(MATGL) $(SAMPLERS) demo-output example-output build dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
