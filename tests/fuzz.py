"""Random requests to random architectures, judged by stock transformers alone: `make fuzz` runs 2,000.

    PYTHONPATH=tests python tests/fuzz.py [--count 2000] [--seed 0] [--jobs 1] [--sabotage 0.25]

Case N takes everything that is random in it from the seed N; a run makes the cases SEED … SEED + COUNT - 1. Each case
builds a tiny model, runs `hyperclone expand`, which verifies, and compares the exit code with what transformers says:

    good     the clone's float32 logits are within 1e-5 of the source's; or, if its weights are stored in 16 bits, those
             of the same clone stored in float32 are: the rounding of its weights then explains the rest
    refused  the request is refused with a reason (exit 2), and nothing is written; or the source is (exit 3), which
             transformers does not run in its own dtype

A good clone that is called wrong (but for noise so loud that `plan` warned of it), a wrong one that passes, and every
other exit code is a failure, printed with the command that repeats it. A part of the good clones is then damaged in
every way of `SABOTAGE`, and `hyperclone verify` must call each of these wrong.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import re
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support import models
from support.command_line import run

TOLERANCE = 1e-5
DTYPES = ("float32", "bfloat16", "float16")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A source and the options of a request to it."""

    seed: int
    variant: str
    dtype: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.variant}, {self.dtype}: {shlex.join(self.options)}"


@dataclass(frozen=True)
class Outcome:
    """How a case ended; `fault` says what is wrong with that, `damaged` what was said of each damaged copy."""

    case: Case
    kind: str
    detail: str = ""
    fault: str = ""
    damaged: dict[str, str] = field(default_factory=dict)


def make_case(seed: int) -> Case:
    """The case of a seed."""
    random = Random(seed)
    variant = random.choice(list(models.VARIANTS))
    return Case(seed, variant, random.choice(DTYPES), tuple(_options(random)))


def _options(random: Random) -> Iterator[str]:
    def sometimes(chance: float) -> bool:
        return random.random() < chance

    def times() -> float:
        return random.choice([2, 2, 2, 3, 4, 1.25, 1.5, 2.5, 3.3, round(random.uniform(1, 4), 2)])

    if sometimes(0.1):
        yield from ("--target-params", f"{random.uniform(0.1, 0.8):.2f}M")
        if sometimes(0.7):
            yield from ("--multiple-of", str(random.choice([1, 4, 16])))
    else:
        if sometimes(0.75):
            yield from (
                ("--embed-mult", str(times())) if sometimes(0.7) else ("--hidden-size", str(random.randint(40, 200)))
            )
        if sometimes(0.7):
            yield from (
                ("--ffn-mult", str(times()))
                if sometimes(0.7)
                else ("--intermediate-size", str(random.randint(70, 300)))
            )
        if sometimes(0.1):
            yield from ("--moe-ffn-mult", str(times()))
    if sometimes(0.15):
        yield from (
            ("--heads-mult", str(times())) if sometimes(0.6) else ("--num-heads", str(random.choice([4, 6, 8, 12, 16])))
        )
    if sometimes(0.15):
        yield from (
            ("--kv-heads-mult", str(random.choice([1, 2, 3])))
            if sometimes(0.6)
            else ("--num-kv-heads", str(random.choice([1, 2, 4, 6, 8])))
        )
    if sometimes(0.1):
        yield from ("--head-dim-mult", str(random.choice([2, 2, 3])))
    if sometimes(0.6):
        strategy = random.choice(["halving", "symmetric", "diagonal", "uneven"])
        yield from ("--strategy", strategy)
        if strategy == "uneven" and sometimes(0.5):
            yield from ("--uneven-ratio", random.choice(["1:3", "2:3", "1:2:3"]))
    if sometimes(0.25):
        yield from ("--noise-snr-db", f"{random.choice([6, 10, 20, random.uniform(0, 60)]):g}")
        yield from ("--seed", str(random.randint(0, 9)))
    if sometimes(0.3):
        yield from ("--dtype", random.choice(DTYPES))
    if sometimes(0.3):
        yield from ("--tie-embeddings", random.choice(["auto", "keep", "untie"]))
    if sometimes(0.15):
        yield from ("--max-shard-size", random.choice(["40KB", "200KB"]))
    if sometimes(0.3):
        yield from (
            ("--depth-mult", str(random.choice([1.5, 2, 2, 3])))
            if sometimes(0.7)
            else ("--num-layers", str(random.randint(2, 9)))
        )
        if sometimes(0.5):
            yield from ("--depth-order", random.choice(["interleave", "top", "middle", "stack"]))


# --- what stock transformers says ------------------------------------------------------------------------------------


@functools.cache
def source_of(work: Path, variant: str, dtype: str) -> tuple[Path, torch.Tensor]:
    """A source and its float32 logits; built once for each variant and dtype."""
    path = models.build(variant, work / f"{dtype} {variant}", getattr(torch, dtype))
    return path, logits_of(path)


def logits_of(path: Path) -> torch.Tensor:
    """Float32 logits on random tokens. Experts run one by one, which needs no aligned rows."""
    return models.logits(models.load(path, experts_implementation="eager"))


@torch.no_grad()
def runs(path: Path) -> bool:
    """Whether transformers runs a checkpoint as it is stored, on as many tokens as the verification has.

    Some architectures compute parts in float32, which meet the float16 of others.
    """
    try:
        AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()(models.tokens(1, 256), use_cache=False)
    except RuntimeError:
        return False
    return True


def is_loud(case: Case) -> bool:
    """Whether `plan` warns that the verification may fail: noise above 10 dB costs 16-bit weights their precision."""
    noise = "--noise-snr-db"
    return noise in case.options and float(case.options[case.options.index(noise) + 1]) < 10


def is_good(case: Case, src: Path, expected: torch.Tensor, clone: Path) -> tuple[bool, str]:
    """Whether a clone computes its source's function, and the figures that say so."""
    error = _relative_error(logits_of(clone), expected)
    found = f"error {error:.1e}"
    narrow = any(tensor.dtype.itemsize < 4 for tensor in _tensors(clone).values())
    if error <= TOLERANCE or not narrow:
        return error <= TOLERANCE, found
    twin = clone.with_name("twin")
    if result := _expand(case, src, twin, "--dtype", "float32", "--no-verify"):
        return False, f"{found}; in float32: {result}"
    error = _relative_error(logits_of(twin), expected)
    shutil.rmtree(twin)
    return error <= TOLERANCE, f"{found}, before rounding {error:.1e}"


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    error = models.relative_error(found, expected)
    return error if error == error else float("inf")


def _expand(case: Case, src: Path, out: Path, *more: str) -> str:
    options = list(case.options)
    if "--dtype" in options and "--dtype" in more:
        place = options.index("--dtype")
        del options[place : place + 2]
    result = run("expand", "--src", src, "--out", out, *options, *more)
    return "" if result.returncode == 0 else f"exit {result.returncode}: {_error(result.stderr)}"


def _error(stderr: str) -> str:
    return next((line for line in stderr.splitlines() if line.startswith("Error:")), stderr[-300:])


# --- clones that are wrong -------------------------------------------------------------------------------------------


def _tensors(clone: Path) -> Tensors:
    return {name: tensor for path in clone.glob("*.safetensors") for name, tensor in load_file(path).items()}


def _change(clone: Path, random: Random, change: Callable[[Tensors, str], bool]) -> bool:
    """Change a tensor of one shard, the first of a random order that `change` can; whether there was one."""
    for path in sorted(clone.glob("*.safetensors"), key=lambda _: random.random()):
        tensors = load_file(path)
        for name in sorted(tensors, key=lambda _: random.random()):
            if tensors[name].count_nonzero() and change(tensors, name):
                save_file(tensors, path, metadata={"format": "pt"})
                return True
    return False


def negate(clone: Path, random: Random) -> bool:
    def change(tensors: Tensors, name: str) -> bool:
        tensors[name].neg_()
        return True

    return _change(clone, random, change)


def swap_layers(clone: Path, random: Random) -> bool:
    made = json.loads((clone / "hyperclone.json").read_text())["request"]
    if made["mixing"]["noise_snr_db"] is not None and "depth_mult" in made:
        return False  # copies of one layer differ by their noise, which cancels in each: either may stand for the other

    def change(tensors: Tensors, name: str) -> bool:
        for other in (re.sub(r"\.\d+\.", f".{layer}.", name, count=1) for layer in range(4)):
            if other != name and other in tensors and tensors[other].shape == tensors[name].shape:
                if (tensors[other] == tensors[name]).float().mean() > 0.5:
                    continue  # copies of one layer, at most with other noise in their padding
                tensors[name], tensors[other] = tensors[other], tensors[name]
                return True
        return False

    return _change(clone, random, change)


def drop_a_row(clone: Path, random: Random) -> bool:
    def change(tensors: Tensors, name: str) -> bool:
        tensor = tensors[name]
        row = random.randrange(len(tensor)) if tensor.dim() > 1 else 0
        if tensor.dim() < 2 or not tensor[row].count_nonzero():
            return False
        tensor[row] = 0
        return True

    return _change(clone, random, change)


def shift_rows(clone: Path, random: Random) -> bool:
    def change(tensors: Tensors, name: str) -> bool:
        if tensors[name].dim() < 2 or torch.equal(moved := tensors[name].roll(1, 0), tensors[name]):
            return False
        tensors[name] = moved
        return True

    return _change(clone, random, change)


def noise_in_a_block(clone: Path, random: Random) -> bool:
    def change(tensors: Tensors, name: str) -> bool:
        tensor = tensors[name]
        if tensor.dim() != 2 or min(tensor.shape) < 2:
            return False
        block = tensor[: tensor.shape[0] // 2, : tensor.shape[1] // 2]
        if not block.count_nonzero():
            return False
        generator = torch.Generator().manual_seed(random.randrange(1000))
        block += 0.1 * block.float().std() * torch.randn(block.shape, generator=generator).to(tensor.dtype)
        return True

    return _change(clone, random, change)


def wrong_number(clone: Path, random: Random) -> bool:
    path = clone / "config.json"
    config = json.loads(path.read_text())
    numbers = [key for key, item in config.items() if type(item) in (int, float) and "token" not in key]
    key = random.choice(sorted(numbers))
    config[key] = config[key] * 2 + 1
    path.write_text(json.dumps(config))
    return True


SABOTAGE: dict[str, Callable[[Path, Random], bool]] = {
    "a tensor negated": negate,
    "two layers' tensors swapped": swap_layers,
    "a row of zeros": drop_a_row,
    "rows shifted by one": shift_rows,
    "noise in one block": noise_in_a_block,
    "a wrong number in config.json": wrong_number,
}


def sabotage(clone: Path, seed: int) -> dict[str, str]:
    """Damage copies of a clone in every way; name → "", or what `hyperclone verify` said instead of "wrong"."""
    found = {}
    for name, damage in SABOTAGE.items():
        copy = clone.with_name("damaged")
        shutil.copytree(clone, copy)
        if damage(copy, Random(seed)):
            result = run("verify", copy)
            wrong = result.returncode in (3, 4)
            found[name] = "" if wrong else f"exit {result.returncode}: {_error(result.stderr)}"
        shutil.rmtree(copy)
    return found


# --- a case, and all of them -----------------------------------------------------------------------------------------


def judge(case: Case, work: Path, chance: float) -> Outcome:
    """Run one case in the directory `work`, and compare what the tool says with what transformers says."""
    src, expected = source_of(work, case.variant, case.dtype)
    clone = work / "clone"
    result = run("expand", "--src", src, "--out", clone, *case.options)
    code, error = result.returncode, _error(result.stderr)
    try:
        if code == 2:
            reason = re.sub(r"\d[\d.,]*", "N", error.removeprefix("Error: "))
            left = clone.exists() or clone.with_name("clone.partial").exists()
            return Outcome(case, "refused", reason, "a refusal left files" if left else "")
        if code == 3 and not runs(src):
            return Outcome(case, "refused, for transformers does not run the source", error)
        if code not in (0, 4):
            return Outcome(case, f"exit {code}", error, f"exit {code}: {error}")
        good, figures = is_good(case, src, expected, clone)
        verdict = "wrong" if code == 4 else "passed"
        failures = "; ".join(line for line in result.stdout.splitlines() if line.startswith("✗"))
        if good and code == 4 and is_loud(case):
            return Outcome(case, "loud noise in 16 bits, called wrong", figures)
        if good != (code == 0):
            fault = f"a {'good' if good else 'wrong'} clone {verdict}: {figures} {failures}"
            return Outcome(case, "good, called wrong" if good else "wrong, passed", figures, fault)
        if not good:
            return Outcome(case, "wrong, called wrong", figures, f"the clone is wrong: {figures} {failures}")
        by_twin = "before rounding" in result.stdout
        damaged = sabotage(clone, case.seed) if Random(case.seed).random() < chance else {}
        missed = [f"{name}: {said}" for name, said in damaged.items() if said]
        fault = f"damage not found: {'; '.join(missed)}" if missed else ""
        return Outcome(case, "done, by the clone before rounding" if by_twin else "done", figures, fault, damaged)
    finally:
        for leftover in ("clone", "clone.partial", "twin", "damaged"):
            shutil.rmtree(work / leftover, ignore_errors=True)


@functools.cache
def _workplace() -> Path:
    """A directory for each process; sources stay in it.

    Each verification has Python look for unused objects three times. Those of modules, half a million, are left out.
    """
    place = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=os.environ["HYPERCLONE_FUZZ"]))
    source_of(place, "llama-gqa-tied", "float32")  # imports what every case needs
    gc.collect()
    gc.freeze()
    return place


def run_case(seed: int, chance: float) -> Outcome:
    torch.set_num_threads(1)
    os.fsync = os.fstat  # type: ignore[assignment]  # no run is cut here
    case = make_case(seed)
    try:
        return judge(case, _workplace(), chance)
    except Exception as error:  # the tests' own models, or transformers, fail: to be seen too
        return Outcome(case, "not judged", repr(error)[:300], f"{type(error).__name__}: {str(error)[:300]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sabotage", type=float, default=0.25, help="the part of the good clones that is damaged")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    chances = [arguments.sabotage] * len(seeds)
    start, kinds, reasons, damage, faults = time.perf_counter(), Counter[str](), Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="hyperclone-fuzz-") as work:
        os.environ["HYPERCLONE_FUZZ"] = work
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
            outcomes = pool.map(run_case, seeds, chances) if arguments.jobs > 1 else map(run_case, seeds, chances)
            for number, outcome in enumerate(outcomes, 1):
                kinds[outcome.kind] += 1
                reasons[outcome.detail] += outcome.kind == "refused"
                damage.update(outcome.damaged.keys())
                if outcome.fault:
                    faults += 1
                    print(f"FAULT {outcome.case}\n  {outcome.fault}", flush=True)
                    print(
                        f"  again: PYTHONPATH=tests python tests/fuzz.py --seed {outcome.case.seed} --count 1",
                        flush=True,
                    )
                if number % 100 == 0:
                    print(
                        f"{number} of {len(seeds)}, {time.perf_counter() - start:.0f} s: {_listed(kinds)}", flush=True
                    )
    print("\nrefused:")
    for reason, count in reasons.most_common(15):
        print(f"  {count:5} {reason[:150]}")
    print(f"damaged clones called wrong: {_listed(damage)}")
    print(f"seeds {seeds.start} … {seeds.stop - 1}: {_listed(kinds)}; {faults} faults")
    raise SystemExit(bool(faults))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common() if count)


if __name__ == "__main__":
    main()
