# Thin aliases: each prints the command that it runs.
MODEL ?= medsegdiff
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

# What `make demo` shows: of a sample, and of a picture.
DEMO_OUT = $(or $(OUT),runs/demo_$(subst /,_,$(or $(CKPT),$(DEMO))))
DEMO := $(if $(IN),medsegdiff-lite_isic2017.cpu64,medsegdiff-lite_synthetic.tiny)

BIN := .venv/bin
RUN := $(BIN)/python -m diffmedseg
# MODEL=medsegdiff-lite is the member lite of medsegdiff.
FAMILY := $(firstword $(subst -, ,$(MODEL)))
MEMBER := $(patsubst $(FAMILY)-%,experiments/$(FAMILY)/member/%.yaml,$(filter $(FAMILY)-%,$(MODEL)))
PAIR := experiments/$(FAMILY)/$(DATA).yaml
PRESET_FILE := $(if $(PRESET),experiments/$(FAMILY)/$(PRESET).yaml)
LOGGER_FILE = $(if $(LOGGER),$(or $(wildcard experiments/logger/$(LOGGER).yaml),$(error There is no experiments/logger/$(LOGGER).yaml. There are: $(basename $(notdir $(wildcard experiments/logger/*.yaml))))))
PAIRS := $(foreach data,$(basename $(notdir $(wildcard experiments/data/*.yaml))),$(wildcard experiments/*/$(data).yaml))
# Where the official folders are: DATA_DIR, else $DIFFMEDSEG_DATA/<data>, else what the data's yaml says (data/<data>).
HAS_ROOT := $(shell grep -s 'root:' experiments/data/$(DATA).yaml)
ROOT := $(or $(DATA_DIR),$(if $(and $(DIFFMEDSEG_DATA),$(HAS_ROOT)),$(DIFFMEDSEG_DATA)/$(DATA)))

.DEFAULT_GOAL := help
.PHONY: help setup demo train evaluate predict augment-preview bench test test-real lint

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12
	@echo
	@echo "make train takes MODEL DATA DATA_DIR PRESET LOGGER CKPT=last ARGS, for example"
	@echo "  make train MODEL=medsegdiff DATA=isic2017 DATA_DIR=/path/to/isic2017 PRESET=cpu ARGS='--trainer.max_steps 100'"

setup: .venv/installed ## make the environment in .venv

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,wandb]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[crf]' || echo "The CRF is left out: pydensecrf2 was not built; it needs Python below 3.13 and a C++ compiler."
	touch $@

demo: setup ## segment a sample with a model of the zoo, or a picture of yours: IN=<file>
	$(RUN) predict $(or $(CKPT),$(DEMO)) "$(or $(IN),zoo/sample.png)" --out "$(DEMO_OUT)" --panel --resume $(ARGS)
	@echo "Look at:"; ls "$(DEMO_OUT)"/*_panel.png

train: setup ## train, test the best checkpoint, draw pictures
ifeq ($(wildcard $(PAIR)),)
	$(error There is no $(PAIR). There are: $(patsubst experiments/%.yaml,%,$(filter-out experiments/data/% experiments/model/%,$(PAIRS))))
endif
ifneq ($(MEMBER),$(wildcard $(MEMBER)))
	$(error There is no $(MEMBER). There are: $(FAMILY) $(patsubst experiments/$(FAMILY)/member/%.yaml,$(FAMILY)-%,$(wildcard experiments/$(FAMILY)/member/*.yaml)))
endif
ifneq ($(filter-out last $(wildcard $(CKPT)),$(CKPT)),)
	$(error There is no file $(CKPT). CKPT=last goes on with the newest run; there are: $(wildcard runs/*/*/checkpoints/last.ckpt))
endif
ifneq ($(and $(filter paper,$(PRESET)),$(filter-out %/v1.yaml,$(MEMBER))),)
	$(error $(PRESET_FILE) is MedSegDiff-V1 as it was published, whatever MODEL says: MODEL=medsegdiff-v1. For the size alone: ARGS='--model.denoiser.size paper')
endif
ifneq ($(PRESET_FILE),$(wildcard $(PRESET_FILE)))
	$(error There is no $(PRESET_FILE). Presets of $(FAMILY): $(basename $(notdir $(filter-out $(PAIRS),$(wildcard experiments/$(FAMILY)/*.yaml)))))
endif
	$(RUN) fit -c experiments/base.yaml -c $(PAIR) $(addprefix -c ,$(MEMBER) $(PRESET_FILE) $(LOGGER_FILE))$(if $(MEMBER), --experiment $(MODEL)-$(DATA)) $(if $(ROOT),--data.root "$(ROOT)") $(addprefix --ckpt_path ,$(CKPT)) $(ARGS)

evaluate: setup ## test a checkpoint: CKPT=runs/.../checkpoints/best.ckpt
ifeq ($(wildcard $(CKPT)),)
	$(error $(if $(CKPT),There is no file $(CKPT).,Say which checkpoint: CKPT=...) There are: $(wildcard runs/*/*/checkpoints/best.ckpt))
endif
	$(RUN) test -c $(patsubst %/,%,$(dir $(patsubst %/,%,$(dir $(CKPT)))))/config.yaml $(if $(DATA_DIR),--data.root "$(DATA_DIR)") --ckpt_path $(CKPT) --verbose false $(addprefix -c ,$(LOGGER_FILE)) $(ARGS)

predict: setup ## segment pictures or volumes: CKPT=<checkpoint, run or zoo entry> IN=<file, folder or 'pattern'> OUT=<folder>
	$(if $(and $(CKPT),$(IN),$(OUT)),,$(error Say CKPT=..., IN=... and OUT=...: make predict CKPT=medsegdiff-lite_isic2017.cpu64 IN=photos OUT=masks))
	$(RUN) predict "$(CKPT)" "$(IN)" --out "$(OUT)" $(ARGS)

augment-preview: setup ## draw images and masks of DATA after augmentation
	$(if $(wildcard experiments/data/$(DATA).yaml),,$(error There is no experiments/data/$(DATA).yaml. There are: $(basename $(notdir $(wildcard experiments/data/*.yaml)))))
	$(RUN) data augment-preview --data experiments/data/$(DATA).yaml $(if $(ROOT),--data.root "$(ROOT)") --out runs/augment-preview_$(DATA).png $(ARGS)

bench: setup ## print ratios of time on this machine; PEER=<a python that has med-seg-diff-pytorch, too> adds that
	$(BIN)/python experiments/benchmarks/samples_time.py
	$(BIN)/python experiments/benchmarks/step_time.py
	$(BIN)/python experiments/benchmarks/scaling.py table --figure runs/scaling.png
	$(if $(PEER),$(PEER) experiments/benchmarks/peer_time.py)

test: setup ## pass the project's own tests
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

test-real: setup ## run on the real data sets in $DIFFMEDSEG_DATA
	$(if $(DIFFMEDSEG_DATA),,$(error Set DIFFMEDSEG_DATA to the folder that holds isic2017, isic2016, ...))
	$(BIN)/pytest -m real $(ARGS)

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
