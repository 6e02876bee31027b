# Thin targets over `python -m pipelines.…`; run `make help` for the list.

# Variables of the command line. Each has its help behind ##; one of the environment is ignored.
# A train_variable becomes a flag of pipelines.train: EPOCHS=3 is --epochs=3.
VARIABLES :=
TRAIN :=
variable = $(eval $(1) =)$(eval VARIABLES += $(1))
train_variable = $(call variable,$(1))$(eval TRAIN += $(1))
$(call variable,VIDEOS)            ## class folders, or a list; a demo corpus if DATA is unset, too
$(call variable,DATA)              ## folder of shards, or its URL
$(call variable,SIZE)              ## pixels of a frame, as 64 or 112x96 (height x width)
$(call variable,FRAMES)            ## frames per clip
$(call variable,ENGINE)            ## where to convert: local, beam or ray; ray compares there, too
$(call variable,FEATURES)          ## frame encoder whose features are stored, and trained on
$(call variable,RECIPE)            ## flags to train with; default: that of MODEL, else lstm
$(call train_variable,MODEL)       ## model to train; see make help-models
$(call train_variable,EPOCHS)      ## passes over the training clips; default: the recipe's
$(call train_variable,SEED)        ## of weights, order, augmentation and dropout
$(call train_variable,VAL_FOLDS)   ## folds to validate on, such as 1-5,9
$(call train_variable,TEST_FOLDS)  ## folds to test on
$(call train_variable,RUN)         ## folder of a run; an unfinished run is resumed
$(call variable,WORKERS)           ## processes that train together
$(call variable,MODELS)            ## recipes to compare, with commas
$(call variable,RUNS)              ## folders of runs to compare or test, with commas
$(call variable,CV)                ## parts of a comparison's cross-validation, or logo
$(call variable,SEEDS)             ## trainings of each model in a comparison
$(call variable,HOLD_OUT_CLASSES)  ## classes a comparison leaves out of training at a time
$(call variable,JOBS)              ## trainings side by side in a comparison, or auto
$(call variable,VIDEO)             ## to predict or monitor: video, folder, or several with commas
$(call variable,PREDICTIONS)       ## to monitor in place of VIDEO: a predictions.json of RUN
$(call variable,OUTPUT)            ## folder that compare, export, predict, ucf50 … write
$(call variable,TORCH)             ## Python of an environment with PyTorch, for bench
$(call variable,FLAGS)             ## more flags; `python -m pipelines.train --helpshort`
VIDEOS = $(if $(DATA),,$(DEMO))
RECIPE = $(if $(FEATURES),features_)$(if $(findstring :,$(MODEL)),lstm,$(or $(MODEL),lstm))

# make ignores variables that it does not know.
VARIABLES += BASE_PYTHON IO_PYTHON PYTHON VENV GPU SHELL
UNKNOWN := $(strip $(foreach name,$(filter-out $(VARIABLES),$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error there is no variable $(UNKNOWN); `make help` lists them))

DEMO   := data/demo_videos
VENV   := .venv
PYTHON := $(VENV)/bin/python
# An interpreter for which every pinned package has a wheel: the user's own, else the newest.
BASE_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
IO_PYTHON ?= $(shell for p in $(BASE_PYTHON) python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# With an NVIDIA driver, TensorFlow is installed with its CUDA libraries.
comma := ,
GPU := $(if $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi),$(comma)gpu)

RECIPES := $(patsubst ucf50_tfrecord/recipes/%.flags,%,$(wildcard ucf50_tfrecord/recipes/*.flags))

# Flags of variables that are set: $(call flags,RUN SEED) is --run='…' --seed='…'.
flag = $(if $(2),--$(1)='$(subst ','\'',$(2))')
flags = $(foreach name,$(1),$(if $($(name)),$(call flag,$(shell echo $(name) | tr A-Z a-z),$($(name)))))
DATA_FLAGS = $(call flags,VIDEOS DATA SIZE FRAMES ENGINE)
FEATURE_FLAGS = $(call flags,FEATURES)

.PHONY: help ucf50 train shards features verify repair evaluate robustness predict monitor export compare reproduce compare-check check-gpu tensorboard inspect doctor help-models bench bench-fetch test test-all test-readers test-remote test-io fuzz lint types format audit pins clean
.DEFAULT_GOAL := help

help:  ## List the targets and variables.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables, as in make train VIDEOS=/data/UCF50 SIZE=112:"
	@awk '/^\$$\(call .*## /{split($$2, part, /[,)]/); sub(/.*## /, ""); printf "  %-13s  %s\n", part[2], $$0}' $(firstword $(MAKEFILE_LIST))
	@echo "Recipes:"
	@echo "$(RECIPES)" | fold -s -w 76 | sed 's/^/  /'

ucf50: $(VENV)/installed  ## Download UCF50 and unpack it into OUTPUT, else data/UCF50.
	$(PYTHON) -m pipelines.fetch ucf50 $(call flags,OUTPUT) $(FLAGS)

# The recipe comes first, so that a wrong name fails before anything is installed.
train: $(if $(filter %.flags,$(RECIPE)),,ucf50_tfrecord/recipes/$(RECIPE).flags) $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert what is missing, train, evaluate.
	$(PYTHON) -m $(if $(WORKERS),pipelines.launch --workers='$(subst ','\'',$(WORKERS))' --,pipelines.train) \
	  $(call flag,recipe,$(RECIPE)) $(DATA_FLAGS) $(FEATURE_FLAGS) $(call flags,$(TRAIN)) $(FLAGS)

shards: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert VIDEOS into TFRecord shards.
	$(PYTHON) -m pipelines.convert $(DATA_FLAGS) $(FLAGS)

features: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Encode the frames of DATA, or of VIDEOS, by FEATURES.
	$(PYTHON) -m pipelines.features $(DATA_FLAGS) $(FEATURE_FLAGS) $(FLAGS)

evaluate: $(VENV)/installed  ## Evaluate RUN again, on VAL_FOLDS or other VIDEOS if set.
	$(PYTHON) -m pipelines.evaluate $(call flags,RUN DATA $(if $(filter command,$(origin VIDEOS)),VIDEOS)) $(call flag,folds,$(VAL_FOLDS)) $(FLAGS)

robustness: $(VENV)/installed  ## Test RUN, or RUNS, on corrupted clips and videos.
	$(PYTHON) -m pipelines.robustness $(call flags,RUN RUNS DATA VIDEOS OUTPUT) $(call flag,folds,$(VAL_FOLDS)) $(FLAGS)

predict: $(VENV)/installed  ## Predict the classes of VIDEO with RUN.
	$(PYTHON) -m pipelines.predict $(call flags,RUN VIDEO DATA OUTPUT) $(FLAGS)

monitor: $(VENV)/installed  ## Tell whether VIDEO, or PREDICTIONS, drifts from RUN.
	$(PYTHON) -m pipelines.monitor $(call flags,RUN VIDEO PREDICTIONS DATA OUTPUT) $(FLAGS)

export: $(VENV)/installed  ## Write RUN for other programs, with a card, to OUTPUT.
	$(PYTHON) -m pipelines.export $(call flags,RUN OUTPUT) $(FLAGS)

compare: $(VENV)/installed $(if $(RUNS),,$(filter $(DEMO),$(VIDEOS)))  ## Compare MODELS or RUNS, and say why they differ.
	$(PYTHON) -m pipelines.compare $(if $(RUNS),$(call flags,DATA),$(DATA_FLAGS) $(FEATURE_FLAGS)) \
	  $(call flags,MODELS CV VAL_FOLDS SEEDS HOLD_OUT_CLASSES EPOCHS RUNS OUTPUT JOBS) $(FLAGS)

reproduce: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Train the published models as published, and by group.
	$(PYTHON) -m pipelines.compare $(DATA_FLAGS) --models=seed_rnn,seed_lstm --orders= \
	  --output='$(or $(OUTPUT),runs/reproduce)' $(call flags,CV SEEDS JOBS) $(FLAGS)

compare-check: $(VENV)/installed  ## Check the comparison's verdicts on planted causes.
	$(PYTHON) -m tools.compare_check $(call flags,JOBS) $(FLAGS)

check-gpu: $(VENV)/installed  ## Check and measure training on GPUs, in 8 minutes.
	$(PYTHON) -m pipelines.check_gpu $(call flags,SIZE FRAMES) $(FLAGS)

verify: $(VENV)/installed  ## Check every shard of DATA.
	$(PYTHON) -m pipelines.verify $(call flags,DATA) $(FLAGS)

repair: $(VENV)/installed $(filter $(DEMO),$(VIDEOS))  ## Convert damaged and missing shards of VIDEOS again.
	$(PYTHON) -m pipelines.convert --verify $(DATA_FLAGS) $(FLAGS)

tensorboard: $(VENV)/installed  ## Open TensorBoard on RUN, or on all runs.
	@test -d '$(or $(RUN),runs)' || { echo "error: there is no folder '$(or $(RUN),runs)' of runs to show" >&2; exit 2; }
	$(PYTHON) -m tensorboard.main $(call flag,logdir,$(or $(RUN),runs)) $(FLAGS)

inspect: $(VENV)/installed  ## Show the shards of DATA, else of data/; or RUN's curves.
	$(PYTHON) -m tools.inspect_data $(call flags,DATA RUN) $(FLAGS)

# The doctor also runs after an installation that failed.
doctor: | $(VENV)/bin/python  ## Check this machine, DATA and RUN; say how to fix them.
	-@$(MAKE) --no-print-directory $(VENV)/installed
	@$(PYTHON) -m tools.doctor $(call flag,videos,$(filter-out $(DEMO),$(VIDEOS))) $(call flags,DATA RUN) $(FLAGS)

help-models: $(VENV)/installed  ## List the models, their parameters and multiply-adds.
	$(PYTHON) -m tools.describe_models $(call flags,SIZE FRAMES) $(FLAGS)

bench: $(VENV)-bench/installed $(filter $(DEMO),$(VIDEOS))  ## Measure conversion, input, steps and reports.
	$(VENV)-bench/bin/python -m benchmarks.plan
	$(VENV)-bench/bin/python -m benchmarks.cells
	$(VENV)-bench/bin/python -m benchmarks.convert $(call flags,VIDEOS) $(FLAGS)
	$(VENV)-bench/bin/python -m benchmarks.input $(call flags,VIDEOS)
	$(VENV)-bench/bin/python -m benchmarks.step $(call flag,torch_python,$(TORCH))
	$(VENV)-bench/bin/python -m benchmarks.report
	@$(MAKE) --no-print-directory bench-fetch FLAGS=

bench-fetch: $(VENV)-io/installed $(VENV)/installed-remote $(filter $(DEMO),$(VIDEOS))  ## Measure reading clips from an object store.
	$(VENV)-io/bin/python -m benchmarks.fetch $(call flags,VIDEOS) --remote_python=$(PYTHON) $(FLAGS)

test: $(VENV)/installed-test  ## Run the tests, but for the slow ones.
	$(PYTHON) -m pytest --ignore=tests/stores -m 'not slow' $(FLAGS)

test-all: $(VENV)/installed-test  ## Run all tests, the slow ones too.
	$(PYTHON) -m pytest --ignore=tests/stores $(FLAGS)

test-readers: $(VENV)-readers/installed  ## Run the tests of other projects' readers.
	$(VENV)-readers/bin/python -m pytest tests/readers $(FLAGS)

test-remote: $(VENV)/installed-remote  ## Run the tests of datasets in object stores.
	$(PYTHON) -m pytest --numprocesses 0 tests/stores $(FLAGS)

test-io: $(VENV)-io/installed  ## Run the same tests with tensorflow-io.
	$(VENV)-io/bin/python -m pytest --numprocesses 0 tests/stores $(FLAGS)

fuzz: $(VENV)/installed  ## Feed damaged and hostile files to the programs.
	$(PYTHON) -m tools.fuzz $(call flags,SEED) $(FLAGS)

lint: $(VENV)/installed-lint  ## Check style and imports.
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types: $(VENV)/installed-types  ## Check the types of the code.
	$(PYTHON) -m mypy

format: $(VENV)/installed-lint  ## Format the code, and sort its imports.
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

audit: $(VENV)/installed-audit  ## Look up known vulnerabilities of the pinned packages.
	$(PYTHON) -m tools.audit_pins $(FLAGS)

# Needs no installation: wrong pins may be what makes it fail.
pins: | $(VENV)/bin/python  ## Write the hashes of the versions in constraints*.txt.
	$(PYTHON) -m tools.write_hashes

clean:  ## Remove .venv and caches; data/ and runs/ stay.
	rm -rf $(VENV) $(VENV)-bench $(VENV)-io $(VENV)-readers build *.egg-info .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO): | $(VENV)/installed
	$(PYTHON) -m tools.make_demo_videos --output=$@

ucf50_tfrecord/recipes/%.flags:
	@echo "error: there is no recipe '$*'; RECIPE or MODEL is one of: $(RECIPES)" >&2; exit 2

$(VENV)/bin/python:
	@test -n "$(BASE_PYTHON)" || { echo "error: Python 3.11 to 3.13 with venv is needed; set BASE_PYTHON=<path>" >&2; exit 2; }
	$(BASE_PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Every installation is checked against the hashes in the pins.
$(VENV)-bench/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m tools.install convert,train,bench
	touch $@

# Two are installed without their dependencies, whose versions differ from ours. MediaPipe with this module has no wheel
# for Python 3.13.
$(VENV)-readers/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-readers
	$(VENV)-readers/bin/python -m tools.install convert,train,pretrained,test,readers
	$(VENV)-readers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --constraint constraints.txt --no-deps tf-models-official 'mediapipe; python_version < "3.13"'
	touch $@

# TensorFlow 2.17 has no wheel for Python 3.13.
$(VENV)-io/installed: setup.cfg pyproject.toml constraints-io.txt
	@test -n "$(IO_PYTHON)" || { echo "error: tensorflow-io needs Python 3.11 or 3.12 with venv; set IO_PYTHON=<path>" >&2; exit 2; }
	$(IO_PYTHON) -m venv $(VENV)-io
	$(VENV)-io/bin/python -m tools.install convert,train,io,stores
	touch $@

# One stamp per set of extras; a stamp older than the pins is stale.
$(VENV)/installed: EXTRAS := convert,train,pretrained$(GPU)
$(VENV)/installed-test: EXTRAS := convert,beam,ray,train,pretrained,test$(GPU)
$(VENV)/installed-remote: EXTRAS := convert,train,remote,stores,test$(GPU)
$(VENV)/installed-lint: EXTRAS := lint
$(VENV)/installed-types: EXTRAS := convert,train,lint$(GPU)
$(VENV)/installed-audit: EXTRAS := audit
$(VENV)/installed $(VENV)/installed-test $(VENV)/installed-remote $(VENV)/installed-lint $(VENV)/installed-types $(VENV)/installed-audit: \
  setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m tools.install $(EXTRAS)
	touch $@
