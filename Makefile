# Set-up is part of every target: `make demo` and `make test` work on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.done
CODE := src tests benchmarks recipes

.PHONY: demo test check format vllm test-vllm test-browser test-lab bench bench-quick bench-real simulate clean
.DELETE_ON_ERROR:

demo: $(SETUP)  ## Synthesize hard questions with the embedded pair
	$(BIN)/tessy demo

test: $(SETUP)  ## All tests that need no vLLM, no browser and no training of minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not vllm and not browser and not lab"

check: $(SETUP)  ## Format, lint and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)

format: $(SETUP)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

vllm: $(SETUP)  ## A vLLM for CPUs in .vllm (3.5 GB), and the models that the benchmarks serve
	$(BIN)/python benchmarks/vllm_servers.py env

test-vllm: vllm  ## The tests against two real vLLM servers
	$(BIN)/python -m pytest -m vllm

test-browser: $(SETUP)  ## The tests of the report in a headless Chromium (Debian's, installed if it is not there)
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium)
	$(BIN)/python -m pytest -m browser

test-lab: $(SETUP)  ## The quick form of the lab: do tessy's data still make a student better?
	$(BIN)/python -m pytest -m lab

bench: vllm  ## How near tessy comes to the limit of alternation, on two real vLLM servers; then our own cost and memory
	$(BIN)/python benchmarks/alternation.py
	$(BIN)/python benchmarks/chunk_cost.py
	$(BIN)/python benchmarks/processes_scale.py
	$(BIN)/python benchmarks/flight_memory.py
	$(BIN)/python benchmarks/run_memory.py
	$(BIN)/python benchmarks/predictor_throughput.py

bench-quick: vllm  ## The same in minutes: do the benchmarks work?
	$(BIN)/python benchmarks/alternation.py --quick
	$(BIN)/python benchmarks/chunk_cost.py --tokens 20000 --lengths 1000 --concurrency 16 --repeat 1
	$(BIN)/python benchmarks/flight_memory.py --in-flight 256

bench-real: vllm  ## `tessy synthesize`, a whole run, between two real vLLM servers
	$(BIN)/python benchmarks/real_servers.py

simulate: $(SETUP)  ## What alternation does on GPU nodes, predicted: docs/performance.md
	$(BIN)/python benchmarks/simulate.py node
	$(BIN)/python benchmarks/simulate.py chunks
	$(BIN)/python benchmarks/simulate.py nodes

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .vllm runs
