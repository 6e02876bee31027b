# Thin targets over `python -m pipelines.…`; run `make help` for the list.

# The conversion's and the training's flags, passed on where they are set.
# Set on the command line only: "=" keeps variables of the shell's environment out.
VIDEOS    = $(if $(DATA),,$(DEMO))
DATA      =
VIDEO     =
SIZE      =
FRAMES    =
MODEL     =
RECIPE    = $(or $(MODEL),lstm)
EPOCHS    =
RUN       =
SEED      =
VAL_FOLDS =
TEST_FOLDS =
WORKERS   =
MODELS    =
CV        =
SEEDS     =
RUNS      =
OUTPUT    =
TORCH     =
FLAGS     =

# One of another name make would pass over in silence.
VARIABLES := VIDEOS DATA VIDEO SIZE FRAMES MODEL RECIPE EPOCHS RUN SEED VAL_FOLDS TEST_FOLDS WORKERS MODELS CV SEEDS \
  RUNS OUTPUT TORCH FLAGS BASE_PYTHON IO_PYTHON PYTHON VENV GPU SHELL
UNKNOWN := $(strip $(foreach name,$(filter-out $(VARIABLES),$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error there is no variable $(UNKNOWN); `make help` lists them))

DEMO   := data/demo_videos
VENV   := .venv
PYTHON := $(VENV)/bin/python
# The newest interpreter for which every pinned package has a wheel, the user's own first.
BASE_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
IO_PYTHON ?= $(shell for p in $(BASE_PYTHON) python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# Where an NVIDIA driver is present, TensorFlow comes with its CUDA libraries.
comma := ,
GPU := $(if $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi),$(comma)gpu)

RECIPES := $(patsubst pipelines/recipes/%.flags,%,$(wildcard pipelines/recipes/*.flags))

flag = $(if $(2),--$(1)='$(subst ','\'',$(2))')
DATA_FLAGS = $(call flag,videos,$(VIDEOS)) $(call flag,data,$(DATA)) $(call flag,size,$(SIZE)) $(call flag,frames,$(FRAMES))

.PHONY: help train shards verify repair evaluate predict export compare compare-check tensorboard inspect doctor help-models bench bench-fetch test test-all test-readers test-remote test-io fuzz lint types format audit pins clean
.DEFAULT_GOAL := help

help:  ## List the targets and variables.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo "Variables, as in make train VIDEOS=/data/UCF50 SIZE=112:"
	@echo "  VIDEOS         folder of class folders; a demo corpus if unset, and DATA too"
	@echo "  DATA           folder of shards, or its URL"
	@echo "  SIZE, FRAMES   of a clip: pixels, as 64 or 112x96 (height x width), and number"
	@echo "$(RECIPES)" | fold -s -w 60 | sed '1s/^/  MODEL, RECIPE  /; 2,$$s/^/                 /'
	@echo "  EPOCHS, SEED   in place of the recipe's"
	@echo "  VAL_FOLDS, TEST_FOLDS  folds to validate and to test on: 1-5,9"
	@echo "  WORKERS        processes that train together"
	@echo "  RUN            a run's folder; an unfinished run goes on"
	@echo "  MODELS, RUNS   what to compare, with commas: recipes, or runs' folders"
	@echo "  CV, SEEDS      of a comparison: parts, or logo; trainings of each model"
	@echo "  VIDEO          to predict: a video, a folder, or several with commas"
	@echo "  OUTPUT         folder for what compare, export or predict writes"
	@echo "  FLAGS          any other: $(PYTHON) -m pipelines.train --helpshort"

# The recipe first: a mistake shows before anything is installed.
train: pipelines/recipes/$(RECIPE).flags $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert what is missing, train, evaluate.
	$(PYTHON) -m $(if $(WORKERS),tools.launch_workers --workers='$(subst ','\'',$(WORKERS))' --,pipelines.train) \
	  --flagfile=pipelines/recipes/$(RECIPE).flags $(DATA_FLAGS) $(call flag,model,$(MODEL)) \
	  $(call flag,epochs,$(EPOCHS)) $(call flag,run,$(RUN)) $(call flag,seed,$(SEED)) $(call flag,val_folds,$(VAL_FOLDS)) \
	  $(call flag,test_folds,$(TEST_FOLDS)) $(FLAGS)

shards: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert VIDEOS into TFRecord shards.
	$(PYTHON) -m pipelines.convert $(DATA_FLAGS) $(FLAGS)

evaluate: $(VENV)/installed  ## Evaluate RUN again, on VAL_FOLDS if set.
	$(PYTHON) -m pipelines.evaluate $(call flag,run,$(RUN)) $(call flag,data,$(DATA)) $(call flag,folds,$(VAL_FOLDS)) $(FLAGS)

predict: $(VENV)/installed  ## Predict the classes of VIDEO, a file or a folder, by RUN.
	$(PYTHON) -m pipelines.predict $(call flag,run,$(RUN)) $(call flag,video,$(VIDEO)) $(call flag,data,$(DATA)) \
	  $(call flag,output,$(OUTPUT)) $(FLAGS)

export: $(VENV)/installed  ## Write RUN for other programs, with a card, to OUTPUT.
	$(PYTHON) -m pipelines.export $(call flag,run,$(RUN)) $(call flag,output,$(OUTPUT)) $(FLAGS)

compare: $(VENV)/installed $(if $(RUNS),,$(filter $(DEMO),$(VIDEOS)))  ## Compare MODELS, or RUNS, and say why they differ.
	$(PYTHON) -m pipelines.compare $(if $(RUNS),$(call flag,data,$(DATA)),$(DATA_FLAGS)) $(call flag,models,$(MODELS)) \
	  $(call flag,cv,$(CV)) $(call flag,val_folds,$(VAL_FOLDS)) $(call flag,seeds,$(SEEDS)) $(call flag,epochs,$(EPOCHS)) \
	  $(call flag,runs,$(RUNS)) $(call flag,output,$(OUTPUT)) $(FLAGS)

compare-check: $(VENV)/installed  ## Check the comparison's verdicts on planted truths.
	$(PYTHON) -m tools.compare_check $(FLAGS)

verify: $(VENV)/installed  ## Check every shard of DATA.
	$(PYTHON) -m pipelines.verify $(call flag,data,$(DATA)) $(FLAGS)

repair: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert damaged and missing shards of VIDEOS again.
	$(PYTHON) -m pipelines.convert --verify $(DATA_FLAGS) $(FLAGS)

tensorboard: $(VENV)/installed  ## Open TensorBoard on RUN, or on all runs.
	@test -d '$(or $(RUN),runs)' || { echo "error: there is no folder '$(or $(RUN),runs)' of runs to show" >&2; exit 2; }
	$(PYTHON) -m tensorboard.main $(call flag,logdir,$(or $(RUN),runs)) $(FLAGS)

inspect: $(VENV)/installed  ## Show the shards of DATA, else of data/; or RUN's curves.
	$(PYTHON) -m tools.inspect_data $(call flag,data,$(DATA)) $(call flag,run,$(RUN)) $(FLAGS)

# An installation that fails is what the doctor is for.
doctor: | $(VENV)/bin/python  ## Find what is wrong here, in DATA or RUN; say the cure.
	-@$(MAKE) --no-print-directory $(VENV)/installed
	@$(PYTHON) -m tools.doctor $(call flag,data,$(DATA)) $(call flag,videos,$(filter-out $(DEMO),$(VIDEOS))) \
	  $(call flag,run,$(RUN)) $(FLAGS)

help-models: $(VENV)/installed  ## List the models and their numbers of parameters.
	$(PYTHON) -m tools.describe_models $(call flag,size,$(SIZE)) $(call flag,frames,$(FRAMES)) $(FLAGS)

bench: $(VENV)-bench/installed $(filter $(DEMO),$(VIDEOS))  ## Measure conversion, input and steps beside other tools.
	$(VENV)-bench/bin/python -m tools.bench_plan
	$(VENV)-bench/bin/python -m tools.bench_convert $(call flag,videos,$(VIDEOS)) $(FLAGS)
	$(VENV)-bench/bin/python -m tools.bench_input $(call flag,videos,$(VIDEOS))
	$(VENV)-bench/bin/python -m tools.bench_step $(call flag,torch_python,$(TORCH))
	@$(MAKE) --no-print-directory bench-fetch FLAGS=

bench-fetch: $(VENV)-io/installed $(VENV)/installed-remote $(filter $(DEMO),$(VIDEOS))  ## Measure how fast clips come out of an object store.
	$(VENV)-io/bin/python -m tools.bench_fetch $(call flag,videos,$(VIDEOS)) --remote_python=$(PYTHON) $(FLAGS)

test: $(VENV)/installed-test  ## Run the tests, but for the slow ones.
	$(PYTHON) -m pytest --ignore=tests/stores -m 'not slow' $(FLAGS)

test-all: $(VENV)/installed-test  ## Run all tests, the slow ones too.
	$(PYTHON) -m pytest --ignore=tests/stores $(FLAGS)

test-readers: $(VENV)-readers/installed  ## Run the tests of other projects' readers.
	$(VENV)-readers/bin/python -m pytest tests/readers $(FLAGS)

test-remote: $(VENV)/installed-remote  ## Run the tests of datasets in object stores.
	$(PYTHON) -m pytest --numprocesses 0 tests/stores $(FLAGS)

test-io: $(VENV)-io/installed  ## Run the same with tensorflow-io.
	$(VENV)-io/bin/python -m pytest --numprocesses 0 tests/stores $(FLAGS)

fuzz: $(VENV)/installed  ## Feed damaged and hostile files to the programs.
	$(PYTHON) -m tools.fuzz $(call flag,seed,$(SEED)) $(FLAGS)

lint: $(VENV)/installed-lint  ## Check style and imports.
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types: $(VENV)/installed-types  ## Check the types of the library.
	$(PYTHON) -m mypy

format: $(VENV)/installed-lint  ## Format the code, and sort its imports.
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

audit: $(VENV)/installed-audit  ## Look the pinned packages up among known vulnerabilities.
	$(PYTHON) -m tools.audit_pins $(FLAGS)

# Not after an installation: what is written anew may be what keeps it from succeeding.
pins: | $(VENV)/bin/python  ## Write the hashes of the versions in constraints*.txt.
	$(PYTHON) -m tools.write_hashes

clean:  ## Remove .venv and caches; data/ and runs/ stay.
	rm -rf $(VENV) $(VENV)-bench $(VENV)-io $(VENV)-readers build *.egg-info .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO): | $(VENV)/installed
	$(PYTHON) -m tools.make_demo_videos --output=$@

pipelines/recipes/%.flags:
	@echo "error: there is no recipe '$*'; RECIPE or MODEL is one of: $(RECIPES)" >&2; exit 2

$(VENV)/bin/python:
	@test -n "$(BASE_PYTHON)" || { echo "error: Python 3.11 to 3.13 with venv is needed; set BASE_PYTHON=<path>" >&2; exit 2; }
	$(BASE_PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Whatever is installed is checked against the hashes in the pins.
$(VENV)-bench/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m tools.install convert,train,bench
	touch $@

# Two without their dependencies: they want other versions than ours, and Python 3.13 has no MediaPipe with this module.
$(VENV)-readers/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-readers
	$(VENV)-readers/bin/python -m tools.install convert,train,test,readers
	$(VENV)-readers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --constraint constraints.txt --no-deps tf-models-official 'mediapipe; python_version < "3.13"'
	touch $@

# TensorFlow 2.17 has no wheel for Python 3.13.
$(VENV)-io/installed: setup.cfg pyproject.toml constraints-io.txt
	@test -n "$(IO_PYTHON)" || { echo "error: tensorflow-io needs Python 3.11 or 3.12 with venv; set IO_PYTHON=<path>" >&2; exit 2; }
	$(IO_PYTHON) -m venv $(VENV)-io
	$(VENV)-io/bin/python -m tools.install convert,train,io,stores
	touch $@

# One stamp for each set of extras; a stamp older than the pins is stale.
$(VENV)/installed: EXTRAS := convert,train$(GPU)
$(VENV)/installed-test: EXTRAS := convert,beam,train,test$(GPU)
$(VENV)/installed-remote: EXTRAS := convert,train,remote,stores,test$(GPU)
$(VENV)/installed-lint: EXTRAS := lint
$(VENV)/installed-types: EXTRAS := convert,train,lint$(GPU)
$(VENV)/installed-audit: EXTRAS := audit
$(VENV)/installed $(VENV)/installed-test $(VENV)/installed-remote $(VENV)/installed-lint $(VENV)/installed-types $(VENV)/installed-audit: \
  setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m tools.install $(EXTRAS)
	touch $@
