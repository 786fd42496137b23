# Everything runs in .venv, which the first target that needs it creates from requirements.lock.
# Machine needs: Python 3.11 or 3.12 with its headers, make, and g++ (pydensecrf2 is compiled).
PRESET    ?= quick
DATASET   ?= scenes
DATA      ?= data
UV        := uv==0.13.8
VENV      := .venv
RUN       := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PARTIAL   := $(VENV)/.partial

# Threads that wait for each other spin for microseconds, then sleep. Training alone on two cores is 13 % faster than with
# no spinning at all; with torch's default it is three times slower as soon as the machine is busy.
export GOMP_SPINCOUNT ?= 5000

# Kept bytecode: without it each process that imports torch compiles its source anew, for 11 seconds.
unexport PYTHONDONTWRITEBYTECODE

# A python on the PATH may be a shim that does not run, or lack venv or the headers: each candidate is tried.
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3)
SUITABLE   := import os, sys, ensurepip, sysconfig; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12) \
	and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))
USABLE     := import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

REPRODUCE  = $(RUN) -m wsss_lib.report.reproduce --preset '$(PRESET)' --dataset '$(DATASET)' \
	$(if $(ROOT),--root '$(ROOT)') $(if $(CLASSES),--classes $(CLASSES)) $(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(CACHE),--cache '$(CACHE)') $(if $(RESULTS),--results '$(RESULTS)') \
	$(if $(PARAMETERS),--parameters '$(PARAMETERS)') $(if $(FORCE),--force) $(if $(JOBS),--jobs $(JOBS))

.DEFAULT_GOAL := help
.PHONY: help install data reproduce quickstart coverage report test lint lab bench lock clean

help: ## Show this help
	@echo 'Usage: make TARGET [VARIABLE=value ...]'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@echo 'Variables of reproduce and quickstart:'
	@echo '  PRESET=smoke|quick|standard|paper|FILE.yaml  DATASET=scenes|voc2012|...  ROOT=folder  CLASSES="cat cow"'
	@echo '  (data reads DATASET=voc2012|coco2014 and DATA=folder, by default data)'
	@echo '  SEEDS="0 1 2"  NOTEBOOKS="01 02"  CACHE=folder  RESULTS=folder  PARAMETERS="name=value"  FORCE=1  JOBS=1'

install: $(INSTALLED) ## Create .venv with the locked versions (the other targets do it when needed)

# $(PARTIAL) marks an install under way: after an interruption the next call starts from a fresh .venv.
$(INSTALLED): requirements.lock pyproject.toml
	@command -v g++ >/dev/null || { \
		echo 'g++ was not found; install it (for example: apt install g++), pydensecrf2 is compiled with it.' >&2; exit 1; }
	@if [ -e $(PARTIAL) ] || ! $(RUN) -c '$(USABLE)' 2>/dev/null; then \
		for candidate in $(CANDIDATES); do \
			if $$candidate -c '$(SUITABLE)' 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		[ -n "$$python" ] || { \
			echo 'No Python 3.11 or 3.12 with venv and headers among: $(CANDIDATES); install one (for example:' \
				'apt install python3.12-venv python3.12-dev) or name it with make PYTHON=/its/path.' >&2; exit 1; }; \
		echo "Creating $(VENV) with $$python" && $$python -m venv --clear $(VENV); \
	fi
	@touch $(PARTIAL)
	@echo 'Installing the locked packages into $(VENV) (once; a minute or more)'
	@$(RUN) -m pip install --quiet $(UV) \
		&& $(RUN) -m uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock \
		|| { echo 'uv could not install; trying pip' >&2; \
			$(RUN) -m pip install --quiet --require-hashes -r requirements.lock; }
	@$(RUN) -m pip install --quiet --no-deps -e .
	@rm $(PARTIAL) && touch $@

data: $(INSTALLED) ## Fetch VOC 2012 with SBD (or DATASET=coco2014), lay it out and check it; CHECK=1 only checks
	@$(RUN) -m wsss_lib.data.download --dataset '$(patsubst scenes,voc2012,$(DATASET))' --root '$(DATA)' \
		$(if $(CHECK),--check)

reproduce: $(INSTALLED) ## Run all notebooks; tables and figures go to results/DATASET/PRESET
	@$(REPRODUCE) $(if $(NOTEBOOKS),--notebooks $(NOTEBOOKS))

quickstart: $(INSTALLED) ## Run only notebooks/00_quickstart.ipynb
	@$(REPRODUCE) --notebooks 00_quickstart

coverage: $(INSTALLED) ## Show which table and figure of the papers each notebook reproduces, and when
	@$(RUN) -m wsss_lib.report.exhibits $(if $(RESULTS),--results '$(RESULTS)')

report: $(INSTALLED) ## Make a site of all results, with the papers beside them: results/site/index.html
	@$(RUN) -m wsss_lib.report.site $(if $(RESULTS),--results '$(RESULTS)')

test: $(INSTALLED) ## Run the tests on two processes; FAST=1 without whole studies, SLOW=1 also full-size networks
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		-m '$(if $(FAST),not whole and not slow,$(if $(SLOW),,not slow))'

lint: $(INSTALLED) ## Check style and format with ruff
	@$(RUN) -m ruff check && $(RUN) -m ruff format --check

lab: $(INSTALLED) ## Open the notebooks in JupyterLab
	@$(RUN) -m jupyterlab notebooks

bench: $(INSTALLED) ## Run every benchmark on an idle machine: time and memory, table in results/benchmarks.md
	@$(RUN) -m benchmarks

lock: $(INSTALLED) ## Resolve requirements.lock anew from pyproject.toml
	@$(RUN) -m uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-annotate --quiet -o requirements.lock

clean: ## Remove caches and executed notebooks; keep .venv, data, tables and figures
	@rm -rf cache .pytest_cache .ruff_cache results/*/*/notebooks
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
