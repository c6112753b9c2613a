"""Does a clone train faster than a random start of the same shape? Source, clones, training, table and plots.

python -m benchmarks.convergence PRESET        (with tests/ on PYTHONPATH; `make convergence` does it)

presets.py   what is compared: shapes, arms, budgets
corpus.py    Python's own sources as tokens
training.py  one training run: a model in, its curve out
copies.py    how far the copies have parted
runs.py      every run of a preset, each kept as one JSON file, so that an interrupted benchmark goes on
summary.py   curves in, figures out
report.py    the table; plots.py the plots
"""
