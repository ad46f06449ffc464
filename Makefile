# The two commands of the README. Each makes the virtual environment when it is not there yet, or when what it is made
# from has changed, and otherwise goes straight to work.
PYTHON ?= python3
VENV := .venv
MINDSPORE := .venv-mindspore
GE := .venv-ge
BIN := $(VENV)/bin
# A file's tests stay together, because they share what is slow to make. Threads of several processes would wait for each
# other with the processors that they need. What a test expects to be on the CPU is there, also where a GPU is.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-slow test-cuda torture bench lint clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(PYTEST)

# The judges that take longer: MindSpore itself, killed trainings, the demo, large models.
test-slow: $(VENV)/.installed $(MINDSPORE)/.installed $(GE)/.installed
	$(PYTEST) -m slow

# On a machine with an NVIDIA GPU; everywhere else they are skipped.
test-cuda: $(VENV)/.installed
	$(BIN)/python -m pytest tests/cuda

# Kills, faults, power cuts, mutants, far more of each than the tests try; prints what docs/guarantees.md states.
torture: $(VENV)/.installed
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest tests/faults --torture -m "slow or not slow"
	$(BIN)/python tests/hostile/torture.py

# Against peers and against the machine, on the disk that this folder is on; the table goes into docs/performance.md.
bench: $(VENV)/.installed $(MINDSPORE)/.installed
	$(BIN)/python -m benchmarks --docs docs/performance.md --json bench-results.json

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# MindSpore needs an older NumPy than we test with, so it judges from an environment of its own.
$(MINDSPORE)/.installed: tests/judges/requirements.txt
	$(PYTHON) -m venv $(MINDSPORE)
	$(MINDSPORE)/bin/python -m pip install --quiet --requirement tests/judges/requirements.txt
	touch $@

# Huawei's schema of GEIR files: one module of a wheel, that nothing of it is installed.
$(GE)/.installed: tests/judges/ge-requirements.txt $(VENV)/.installed
	mkdir -p $(GE)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(GE) --only-binary=:all: --python-version 3.11 \
		--platform manylinux_2_28_x86_64 --requirement $<
	$(BIN)/python -c "import pathlib, sys, zipfile; folder = pathlib.Path(sys.argv[1]); \
		wheel = zipfile.ZipFile(next(folder.glob('*.whl'))); \
		name = next(name for name in wheel.namelist() if name.endswith('ge_ir_by_protoc_3_19_pb2.py')); \
		(folder / 'ge_ir_by_protoc_3_19_pb2.py').write_bytes(wheel.read(name))" $(GE)
	touch $@

clean:
	rm -rf $(VENV) $(MINDSPORE) $(GE) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
