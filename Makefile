# `make demo` and `make test` set up their own .venv on a machine with python3.11+ and a C compiler;
# `make comfy` uses the ComfyUI at COMFYUI_PATH.
PYTHON ?= python3
# The host owns torch; this is only what the .venv of this Makefile gets. TORCH=torch takes the newest.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# One thread is faster than several for models this small, and leaves the other cores to the rest.
export OMP_NUM_THREADS ?= 1

.PHONY: demo quick test faults fuzz bench comfy load clean

demo: $(VENV)/.ready
	$(BIN)/identity-lock demo --out out/demo

quick: $(VENV)/.ready
	$(BIN)/identity-lock demo --quick --out out/quick

# One process a core; the tests of one file stay together, because they share servers and checkpoints.
test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

# 50 kills at random points of a whole run, each gone on from and compared (about 15 minutes); SEED=n draws the same ones.
faults: $(VENV)/.ready
	$(BIN)/python -m identity_lock.tests.faults.kills $(if $(SEED),--seed $(SEED))

# Hostile and changed files for every reader, for MINUTES with a seed of its own each time (SEED=n: the same ones again).
# What is found is kept in out/fuzz, where it can be replayed, and makes it fail.
MINUTES ?= 30
fuzz: $(VENV)/.ready
	$(BIN)/python -m identity_lock.tests.fuzz.campaign --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

comfy:
	tools/comfy.sh

# 200 renders on the ComfyUI at COMFYUI_PATH, its memory meanwhile, and 200 more with kills in between.
load: $(VENV)/.ready
	$(BIN)/python -m identity_lock.tests.host.load --out out/load

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

$(VENV)/.ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[embedded,test]" numba
	$(BIN)/pip install --quiet --no-deps anny
	# insightface and rembg bring a cv2 each; the one that needs no display libraries has to win
	$(BIN)/pip install --quiet --force-reinstall --no-deps opencv-python-headless
	touch $@

clean:
	rm -rf $(VENV) build out *.egg-info
