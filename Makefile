# Every target does its own set-up: a fresh clone needs only Python >= 3.11 (Linux or macOS).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
JOBS ?= 2
VM_JOBS ?= 2

.PHONY: help setup demo test test-slow test-kfd test-vm test-amdgpu vm-kernel vm-table test-all lint bench docs autogen clean

help:
	@echo "make demo       train a network on a GPU that we boot ourselves (the mock card; no hardware needed)"
	@echo "make test       the test suite (a few minutes)"
	@echo "make test-slow  the long suites"
	@echo "make test-kfd   the suites of hcq and the compiler over the kernel's driver, simulated"
	@echo "make test-vm    our HALs on a real Linux kernel in QEMU, and a table of what ran on which kernel"
	@echo "make test-amdgpu  Linux's own amdgpu driver on the mock card, in QEMU"
	@echo "make vm-kernel  build the guests' kernel with iommufd and no-IOMMU, once (test-vm does it when it is missing)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      benchmarks, each against a baseline in the same run"
	@echo "make docs       the docs as a site, into build/docs; a warning or a broken link is an error"
	@echo "make setup      only build .venv, which every other target does first; make clean takes it away"
	@echo "make autogen    regenerate register tables and packet facts and compare them with the repo"

$(VENV)/.ready: setup.py
	@$(PYTHON) -c 'import sys; sys.exit("amdrv needs Python >= 3.11, this is " + sys.version.split()[0] + "; set PYTHON=python3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

setup: $(VENV)/.ready

demo: setup
	AM=1 AMDRV_HAL=mock $(RUN) examples/digits.py

test: setup
	$(RUN) -m pytest -q -n $(JOBS) -m "not slow and not vm"

test-slow: setup
	$(RUN) -m pytest -q -n $(JOBS) --dist worksteal -m slow

test-kfd: setup
	HCQ_TEST_DEVICE=KFD $(RUN) -m pytest -q -n $(JOBS) -m "not slow and not vm" tests/hcq/test_am_mock.py tests/kfd
	HCQ_TEST_DEVICE=KFD $(RUN) -m pytest -q -n $(JOBS) -m "not slow and not vm" -k KFD tests/compiler

test-vm: setup
	-$(RUN) tests/vm/build_kernel.py
	$(RUN) -m pytest -q -n $(VM_JOBS) -m "vm and not amdgpu" tests/vm

test-amdgpu: setup
	$(RUN) -m pytest -q -n $(VM_JOBS) -m amdgpu tests/vm

vm-kernel: setup
	$(RUN) tests/vm/build_kernel.py

vm-table: vm-kernel
	AMDRV_VM_REQUIRED=1 AMDRV_VM_TABLE=docs/kernels.md $(RUN) -m pytest -q -n $(VM_JOBS) -m vm tests/vm

test-all: setup
	$(RUN) -m pytest -q -n $(JOBS) --dist worksteal -m "not vm"

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m mypy amdrv hcq compiler mock tools examples bench

bench: setup
	set -e; for page in bench/*.py; do $(RUN) -m bench.$$(basename $$page .py); done

$(VENV)/.docs-ready: $(VENV)/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

docs: $(VENV)/.docs-ready
	$(RUN) -m sphinx -q -W --keep-going -E -b html -j $(JOBS) docs build/docs
	@echo "build/docs/index.html"

autogen: setup
	$(RUN) -m tools.fetch_sources
	$(RUN) -m tools.autogen --check

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
