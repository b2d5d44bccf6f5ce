# Development environment of reconx_ros: everything lives in a virtual environment beside this file.
# `make help` lists the targets. On a computer with ROS 2 installed, `colcon build` is all that is needed.

PYTHON ?= python3
# Extra words for every `pip install`, for example an index of your own.
PIP_ARGS ?=
# What `make test` runs, and extra words for pytest.
TESTS ?= test
PYTEST_ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

# ROS 2 distributions that pip has; each gets an environment of its own.
ROS_DISTRO ?= kilted
ifeq ($(ROS_DISTRO),kilted)
VENV ?= .venv
else
VENV ?= .venv-$(ROS_DISTRO)
endif

# Fast DDS of Jazzy and earlier reads the second name only; later ones warn about it.
fastdds_variable := $(if $(filter jazzy,$(ROS_DISTRO)),FASTRTPS_DEFAULT_PROFILES_FILE,FASTDDS_DEFAULT_PROFILES_FILE)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

prefix := $(abspath $(VENV))
python := $(prefix)/bin/python
stamps := $(prefix)/.setup
build := $(prefix)/.build
ros_requirements := requirements/ros-$(ROS_DISTRO).txt

# Another ROS environment in this shell would be mixed with ours.
unexport PYTHONPATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# TETHERED=1 is for robot and server on two computers: they must see each other, and notice when the link breaks.
TETHERED ?=
dds_profile := $(if $(TETHERED),fastdds_tethered.xml,fastdds.xml)
discovery := $(if $(TETHERED),SUBNET,LOCALHOST)

# What the nodes need to run from the environment; `make env` prints it for a shell.
ros_env := \
	PATH="$(prefix)/bin:$$PATH" \
	AMENT_PREFIX_PATH="$(prefix)" \
	ROS_DISTRO=$(ROS_DISTRO) \
	$(fastdds_variable)="$(CURDIR)/config/$(dds_profile)" \
	ROS_AUTOMATIC_DISCOVERY_RANGE=$(discovery)
test_env := $(ros_env) ROS_PYTHON_CHECK_FIELDS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: help setup env demo test test-ros test-long coverage lint format docs bench colcon clean distclean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo "  ROS_DISTRO=jazzy make TARGET uses ROS 2 Jazzy in .venv-jazzy; PYTHON=python3.12 make TARGET picks the interpreter."

# Environment ----------------------------------------------------------------------------------------------------

setup: $(stamps)/messages ## Make the environment: wheels, messages, this package
	@:

$(stamps)/venv:
	@if [ ! -f "$(ros_requirements)" ]; then echo "make setup: pip has no ROS 2 '$(ROS_DISTRO)'; use ROS_DISTRO=kilted or jazzy, or colcon build on a computer where it is installed." >&2; exit 1; fi
	@if [ "$$(uname -s)-$$(uname -m)" != Linux-x86_64 ]; then echo "make setup: pip has ROS 2 for Linux on x86-64 only, and this is $$(uname -s) on $$(uname -m); install ROS 2 and use colcon build, or 'pip install .' for the library without ROS." >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'; then echo "make setup: Python 3.10, 3.11 or 3.12 is needed; name one with PYTHON=python3.11 make setup." >&2; exit 1; fi
	@test -x "$(python)" || "$(PYTHON)" -m venv "$(prefix)" || { echo "make setup: cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv." >&2; exit 1; }
	@mkdir -p "$(stamps)" && touch $@

# First, so that nothing after it chooses another build of it.
$(stamps)/torch: requirements/torch.txt | $(stamps)/venv
	@echo "== torch"
	@"$(python)" -m pip install -q $(PIP_ARGS) -r requirements/torch.txt || { echo "make setup: torch cannot be installed; see the lines above." >&2; exit 1; }
	@touch $@

$(stamps)/requirements: requirements/base.txt requirements/models.txt requirements/viewer.txt requirements/dev.txt $(wildcard $(ros_requirements)) $(stamps)/torch
	@echo "== Python requirements and ROS 2 $(ROS_DISTRO)"
	@"$(python)" -m pip install -q $(PIP_ARGS) -r requirements/base.txt -r requirements/models.txt -r requirements/viewer.txt -r requirements/dev.txt -r $(ros_requirements) || { echo "make setup: a wheel is missing for this Python or computer; see the lines above." >&2; exit 1; }
	@touch $@

interfaces := $(wildcard msg/*.msg srv/*.srv action/*.action)
cmake_files := CMakeLists.txt package.xml $(wildcard cmake/*.cmake scripts/*.in)
native_files := $(wildcard $(addprefix reconx_ros/native/,CMakeLists.txt build_native.py *.c *.h))
tf2_files := $(wildcard cmake/tf2_msgs/package.xml cmake/tf2_msgs/CMakeLists.txt cmake/tf2_msgs/msg/*)
cmake_args = -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$(prefix)" -DCMAKE_PREFIX_PATH="$(prefix)" \
	-DPython3_EXECUTABLE="$(python)" -DCMAKE_PROJECT_INCLUDE="$(CURDIR)/cmake/wheel_fix.cmake" -DBUILD_TESTING=OFF

# $(call cmake_install,NAME,SOURCE,EXTRA ARGUMENTS): builds a package and installs it into the environment.
define cmake_install
	@mkdir -p "$(build)/$(1)"
	@{ $(ros_env) cmake -S $(2) -B "$(build)/$(1)" $(cmake_args) $(3) \
		&& $(ros_env) cmake --build "$(build)/$(1)" --parallel $(JOBS) \
		&& $(ros_env) cmake --install "$(build)/$(1)"; } > "$(build)/$(1).log" 2>&1 \
		|| { tail -n 40 "$(build)/$(1).log" >&2; echo "make setup: $(1) cannot be built (gcc, g++ and the headers of Python are needed: apt install g++ python3-dev); all lines are in $(build)/$(1).log." >&2; exit 1; }
endef

# pip has no tf2_msgs. Where another package brought it, ours is not built.
$(stamps)/tf2_msgs: $(tf2_files) $(stamps)/requirements
	@if [ -d "$(build)/tf2_msgs" ] || ! "$(python)" -c 'import tf2_msgs' 2>/dev/null; then $(MAKE) --no-print-directory _tf2_msgs; fi
	@touch $@

.PHONY: _tf2_msgs
_tf2_msgs:
	@echo "== tf2_msgs"
	$(call cmake_install,tf2_msgs,cmake/tf2_msgs,)

$(stamps)/messages: $(interfaces) $(cmake_files) $(native_files) $(stamps)/tf2_msgs
	@echo "== reconx_ros"
	$(call cmake_install,reconx_ros,.,-DRECONX_LIVE_SOURCE=ON)
	@touch $@
	@echo "== ready: $(VENV)/bin/reconx"

env: ## Print the variables that a shell needs to run the nodes; TETHERED=1: with the server on another computer
	@echo 'export PATH="$(prefix)/bin:$$PATH"'
	@for word in $(ros_env); do case $$word in PATH=*) ;; *) echo "export $$word" ;; esac; done

# Use ------------------------------------------------------------------------------------------------------------

demo: setup ## Let a simulated robot drive through a room in front of the real nodes
	@$(ros_env) reconx demo --out out/demo --json out/demo.json

test: setup ## Run every test that CI runs
	@$(test_env) "$(python)" -m pytest $(TESTS) $(PYTEST_ARGS)

test-ros: setup ## Run only the tests that start nodes
	@$(test_env) "$(python)" -m pytest $(TESTS) -m "ros and not long" $(PYTEST_ARGS)

test-long: setup ## Run the tests that take minutes: load, networks of several hosts, the viewer in a browser
	@$(test_env) "$(python)" -m pytest $(TESTS) -m long $(PYTEST_ARGS)

# Also after a failed test: what ran was counted. Only a whole run can be held against the list of unexecuted functions.
coverage: setup ## Run every test and count lines and functions: a table, out/coverage/html, and what no test executes
	@rm -rf out/coverage && mkdir -p out/coverage
	@failed=0; $(test_env) "$(python)" -m coverage run -m pytest $(TESTS) $(PYTEST_ARGS) || failed=$$?; \
		"$(python)" -m coverage combine -q && "$(python)" -m coverage html -q \
		&& "$(python)" scripts/report_coverage.py $(if $(filter test,$(TESTS)),$(if $(PYTEST_ARGS),,--check)) && exit $$failed

lint: $(stamps)/requirements ## Check style, imports and types
	@"$(python)" -m ruff check .
	@"$(python)" -m ruff format --check .
	@"$(python)" -m mypy

format: $(stamps)/requirements ## Rewrite the sources in the project's style
	@"$(python)" -m ruff check --fix .
	@"$(python)" -m ruff format .

docs: setup ## Write docs/parameters.md and config/*.yaml from the configuration tree
	@"$(python)" -c 'from pathlib import Path; from reconx_ros.pipeline.parameter_files import write_generated_files; write_generated_files(Path("."))'

bench: setup ## Measure speed of the stages and of the nodes; tables go into docs/performance.md
	@$(ros_env) reconx bench all --json out/bench.json --doc docs/performance.md

colcon_bases = --base-paths . --build-base build-colcon/$(ROS_DISTRO)/build --install-base build-colcon/$(ROS_DISTRO)/install
colcon_run := $(test_env) CMAKE_PREFIX_PATH="$(prefix)" COLCON_LOG_PATH=build-colcon/$(ROS_DISTRO)/log "$(python)" -m colcon

colcon: setup ## Build and test the way a ROS workspace does, in build-colcon/; TESTS=test/test_core.py for one file
	@mkdir -p build-colcon && touch build-colcon/COLCON_IGNORE
	@$(colcon_run) build $(colcon_bases) --cmake-args -G Ninja -DCMAKE_BUILD_TYPE=Release \
		-DPython3_EXECUTABLE="$(python)" -DCMAKE_PROJECT_INCLUDE="$(CURDIR)/cmake/wheel_fix.cmake" -DRECONX_TESTS="$(TESTS)"
	@$(colcon_run) test $(colcon_bases) --event-handlers console_direct+ --return-code-on-test-failure
	@$(colcon_run) test-result --test-result-base build-colcon/$(ROS_DISTRO)/build
	@export $(test_env) && set +u && . build-colcon/$(ROS_DISTRO)/install/setup.bash && cd test && "$(python)" -m pytest -q test_installation.py

clean: ## Remove what was built and written; the environments stay
	rm -rf build build-colcon install log out dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find reconx_ros test -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environments too
	rm -rf .venv .venv-*
