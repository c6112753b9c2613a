"""Train a source, clones of it and random starts of the clones' shape, and compare them.

    python -m benchmarks.convergence PRESET [--work DIRECTORY]

A run that is interrupted goes on where it stopped when it is started again with the same work directory, where
more arms, rates and seeds may follow too.
Progress goes to stderr, the table to stdout; results.json and the plots are written beside the records.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.convergence.plots import write_plots
from benchmarks.convergence.presets import ARMS, PRESETS, PRETRAINED, baseline
from benchmarks.convergence.report import print_tables, write_results
from benchmarks.convergence.runs import Bench, complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--work", type=Path, help="checkpoints, records and results; demo/convergence-PRESET")
    parser.add_argument("--source", type=Path, help="for smollm2 and smollm2-cpu: the checkpoint")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="instead of the preset's; random starts are added")
    parser.add_argument("--rates", nargs="+", type=float, metavar="RATE", help="the grid, instead of the preset's")
    parser.add_argument("--seeds", type=int, help="how many, instead of the preset's")
    parser.add_argument("--steps", type=int, help="of each arm, instead of the preset's; needs a --work of its own")
    parser.add_argument("--source-steps", type=int, help="of the source's own training; needs a --work of its own")
    parser.add_argument("--jobs", type=int, help="runs at a time; as many as processors, 1 on a GPU or from --source")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    if (PRETRAINED in preset.shapes) != (arguments.source is not None):
        parser.error("--source is for the presets smollm2 and smollm2-cpu, which need it")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    arms = arguments.arms or preset.arms
    bench = Bench(
        preset=replace(
            preset,
            arms=tuple(dict.fromkeys((*map(baseline, arms), *arms))),
            rates=tuple(sorted(arguments.rates or preset.rates)),
            seeds=arguments.seeds or preset.seeds,
            steps=arguments.steps or preset.steps,
            source_steps=arguments.source_steps or preset.source_steps,
        ),
        work=(arguments.work or Path("demo") / f"convergence-{arguments.preset}").absolute(),
        device=device,
        source=arguments.source and arguments.source.absolute(),
    )
    one = device == "cuda" or arguments.source  # each of these takes all there is
    jobs = arguments.jobs or (1 if one else os.cpu_count() or 1)
    try:
        complete(bench, jobs, lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print_tables(bench, Console(width=260 if not sys.stdout.isatty() else None))
    for path in (write_results(bench), *write_plots(bench)):
        print(f"Wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
