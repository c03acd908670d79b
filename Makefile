# make study   the paper's figures from the committed results, and two effects trained here
# make report  the notebooks and claims as web pages, in runs/report
# make test    the tests, and the committed notebooks against what they show
#
# PROFILE=laptop, study or paper computes all results anew at that scale: an hour, hours, GPUs.
# Both create .venv when it is missing or out of date. PYTHON names the interpreter (3.11 or newer).
# Python 3.11 gets the exact versions of requirements.lock; newer ones get the ranges of pyproject.toml.

PYTHON  ?= python3
PROFILE ?= shipped
VENV    := .venv

# What decides the environment is in the stamp's name: as long as it is unchanged, nothing is done.
KEY   := $(shell { pwd; cat pyproject.toml requirements.lock; } | cksum | cut -d' ' -f1)
READY := $(VENV)/ready-$(KEY)

# Bytecode is kept, whatever the caller prefers: without it every process compiles what it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help study report test environment

help:
	@sed -n 's/^# //p' Makefile | head -n 6

study: environment
	@$(VENV)/bin/python -m bondlab study --profile $(PROFILE)

report: environment
	@$(VENV)/bin/python -m bondlab report --profile $(PROFILE)

test: environment
	@$(VENV)/bin/python -m pytest --nbval --nbval-current-env --numprocesses auto --maxprocesses 4 --dist loadfile \
	    --no-loadscope-reorder

environment: $(READY)

# `unfinished` marks an environment whose installation never ended: it is replaced, not repaired.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"bondlab needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11")'
	@if [ -e $(VENV)/unfinished ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && rm -f $(VENV)/ready-* && touch $(VENV)/unfinished
	@echo "Installing bondlab and its dependencies into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@if $(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
	    then lock="--constraint requirements.lock"; else lock=""; fi; \
	    $(VENV)/bin/python -m pip install --disable-pip-version-check --no-compile $$lock --editable '.[study,test]'
	@mv $(VENV)/unfinished $@
