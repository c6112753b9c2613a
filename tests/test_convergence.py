"""The benchmark of training: it runs, it goes on where it stopped, and its figures mean what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM

from benchmarks.convergence.plots import write_plots
from benchmarks.convergence.presets import CLONES, CONTINUED, PADDED, PRESETS, RANDOM, RANDOMS, SOURCE, baseline
from benchmarks.convergence.report import print_tables, write_results
from benchmarks.convergence.runs import Bench, complete, runs_of
from benchmarks.convergence.summary import break_even, loss_at, regained, schedule_ends, steps_to
from benchmarks.convergence.training import Curve, evaluate, evaluated


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The smallest preset, complete."""
    done = Bench(PRESETS["smoke"], tmp_path_factory.mktemp("smoke"), "cpu")
    complete(done, jobs=1, log=print)
    return done


@pytest.fixture(scope="module")
def results(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write_results(bench).read_text())
    return found


def test_every_clone_starts_at_the_loss_that_its_source_ended_with(results: dict[str, Any]) -> None:
    (curves,) = results["curves"].values()
    (source,) = curves[SOURCE]
    for arm in curves.keys() - {SOURCE, *RANDOMS, "larger, copies", *PADDED}:
        (clone,) = curves[arm]
        assert clone["losses"][0] == pytest.approx(source["losses"][-1], abs=1e-5)
    for arm in RANDOMS:
        (random,) = curves[arm]
        assert random["losses"][0] > source["losses"][-1] + 0.1


@pytest.mark.parametrize("arm", ["larger, copies", *PADDED])
def test_plain_copies_of_layers_and_padded_weights_are_another_function(arm: str, results: dict[str, Any]) -> None:
    (curves,) = results["curves"].values()
    ((source,), (started,)) = (curves[name] for name in (SOURCE, arm))
    assert abs(started["losses"][0] - source["losses"][-1]) > 1e-3


def test_every_arm_is_held_against_a_random_start_of_its_own_shape(results: dict[str, Any]) -> None:
    (curves,) = results["curves"].values()
    for arm in CLONES.keys() & curves.keys():
        assert curves[arm][0]["parameters"] == curves[baseline(arm)][0]["parameters"]
    assert curves[CONTINUED][0]["parameters"] == curves[SOURCE][0]["parameters"]
    assert all(curves[arm][0]["flops_per_token"] > curves[CONTINUED][0]["flops_per_token"] for arm in RANDOMS)


def test_a_speed_up_by_schedule_takes_the_ends_of_complete_schedules(bench: Bench, results: dict[str, Any]) -> None:
    lengths = [{found.steps[place] for found in schedule_ends(bench, "llama-tiny", "halving")} for place in (0, 1, 2)]
    assert lengths == [{0}, {5}, {10}]
    assert schedule_ends(bench, "llama-tiny", CONTINUED)[0].steps == [0, 5, 10, 20, 40]
    rows = {row["arm"]: row for row in results["summary"]}
    assert rows[RANDOM]["by_schedule"]["mean"] == 1.0


def test_a_schedule_has_the_rate_that_was_best_on_the_next_longer_trial(bench: Bench) -> None:
    def best(steps: int) -> float:
        records = [path.read_text() for path in bench.work.glob(f"runs/*source,trainedon*-steps{steps}.json")]
        assert len(records) >= len(bench.preset.rates)
        return min(map(json.loads, records), key=lambda record: record["curve"]["losses"][-1])["run"]["rate"]  # type: ignore[no-any-return]

    assert [runs_of(bench, "llama-tiny", CONTINUED, steps)[0].rate for steps in (5, 20)] == [best(10), best(40)]


def test_a_model_that_is_kept_has_the_loss_that_its_run_ended_with(bench: Bench, results: dict[str, Any]) -> None:
    (run,) = runs_of(bench, "llama-tiny", "halving")
    model = AutoModelForCausalLM.from_pretrained(bench.work / "trained" / run.name)
    held_out = bench.corpus().validation(bench.preset.eval_windows, bench.preset.length)
    (curves,) = results["curves"].values()
    assert evaluate(model, held_out, bench.preset.batch) == pytest.approx(curves["halving"][0]["losses"][-1], abs=1e-5)


def test_equal_copies_stay_equal_and_noise_makes_them_diverge(results: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in results["summary"]}
    assert rows["symmetric"]["stream"]["mean"] == pytest.approx(1.0, abs=1e-9)
    assert rows["symmetric"]["rank"]["mean"] == pytest.approx(0.5, abs=0.01)
    for arm in ("symmetric + 10 dB", "halving"):
        assert rows[arm]["stream"]["mean"] < 1 - 1e-6
        assert rows[arm]["rank"]["mean"] > 0.9


def test_speed_ups_are_over_the_random_start_and_less_once_the_source_is_counted(results: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in results["summary"]}
    assert rows[RANDOM]["speedup"]["mean"] == rows[RANDOM]["flops_speedup"]["mean"] == 1.0
    (curves,) = results["curves"].values()
    ((source,), (random,), (clone,)) = (curves[arm] for arm in (SOURCE, RANDOM, "symmetric"))
    spent = (
        source["flops_per_token"] * source["steps"][-1]
        + clone["flops_per_token"] * rows["symmetric"]["steps_to"]["mean"]
    )
    expected = random["flops_per_token"] * rows[RANDOM]["steps_to"]["mean"] / spent
    assert rows["symmetric"]["flops_speedup"]["mean"] == pytest.approx(expected)


def test_the_table_has_a_row_for_every_arm_and_the_plots_are_written(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    print_tables(bench, Console(width=260))
    table = capsys.readouterr().out
    assert all(f"│ {arm} " in table for arm in bench.preset.arms)
    starts = {path.suffix: path.read_bytes()[:5] for path in write_plots(bench)}
    assert starts == {".png": b"\x89PNG\r", ".svg": b"<?xml"}


def test_a_benchmark_that_was_interrupted_does_only_what_is_missing(bench: Bench) -> None:
    missing = bench.work / "runs" / "llama-tiny-random-seed0-rate0.01-steps10.json"
    before = {path: path.stat().st_mtime_ns for path in bench.work.rglob("*") if path.is_file()}
    first = json.loads(missing.read_text())["curve"]["losses"]
    missing.unlink()
    lines: list[str] = []
    complete(bench, jobs=1, log=lines.append)
    assert len(lines) == 1
    assert json.loads(missing.read_text())["curve"]["losses"] == first
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    trained = bench.work / "trained" / missing.stem
    assert missing in changed
    assert {path.parent for path in changed - {missing}} == {trained}


def test_arms_at_another_rate_follow_in_the_same_place(bench: Bench) -> None:
    lines: list[str] = []
    wider = replace(bench.preset, rates=(*bench.preset.rates, 3e-2), arms=(RANDOM, "symmetric"), schedules=())
    complete(replace(bench, preset=wider), jobs=1, log=lines.append)
    assert [line.partition(" steps")[0] for line in lines] == [
        f"{number} of 2: llama-tiny, {arm}, seed 0, rate 0.03, 10" for number, arm in ((1, RANDOM), (2, "symmetric"))
    ]


def test_records_of_other_settings_are_refused(bench: Bench) -> None:
    other = replace(bench, preset=replace(bench.preset, batch=2))
    with pytest.raises(SystemExit, match=r"settings\.json: other settings"):
        complete(other, jobs=1, log=print)


def curve(*losses: float) -> Curve:
    """Losses at 0, 10, 20, … steps."""
    return Curve(steps=[10 * number for number in range(len(losses))], losses=list(losses))


@pytest.mark.parametrize(
    "losses, target, steps",
    [
        ((4.0, 3.0, 2.0), 2.5, 15.0),
        ((4.0, 3.0, 2.0), 3.0, 10.0),
        ((4.0, 3.0, 2.0), 5.0, 0.0),
        ((4.0, 3.0, 2.0), 1.9, None),
        ((4.0, 2.0, 3.0, 1.0), 2.0, 10.0),  # the first time
    ],
)
def test_steps_to_a_loss(losses: tuple[float, ...], target: float, steps: float | None) -> None:
    assert steps_to(curve(*losses), target) == steps


@pytest.mark.parametrize(
    "losses, steps",
    [
        ((2.0, 2.5, 2.1, 1.9, 1.8), 30.0),
        ((2.0, 2.5, 1.9, 2.1, 1.8), 40.0),  # for good
        ((2.0, 1.9, 1.8), 0.0),
        ((2.0, 2.2, 2.1), None),
    ],
)
def test_steps_until_the_start_is_regained(losses: tuple[float, ...], steps: float | None) -> None:
    assert regained(curve(*losses)) == steps


def ends(flops_per_token: int, *losses: float) -> Curve:
    """Ends of complete schedules of 1, 2, 4, … steps of 100 tokens, of a model of 10 parameters."""
    steps = [0, *(2**number for number in range(len(losses)))]
    return Curve(steps, [9.0, *losses], flops_per_token=flops_per_token, tokens_per_step=100, parameters=10)


@pytest.mark.parametrize(
    "arm, tokens_per_parameter",
    [
        (ends(2, 3.9, 2.9, 1.9), 10),  # ahead of it from its shortest schedule on
        (ends(2, 4.1, 2.9), 10 * 2**0.5),  # behind by 0.1, then ahead by as much: between them on a scale of logarithms
        (ends(2, 3.9, 3.1), None),  # ahead at first only
        (ends(2, 3.9, 3.1, 1.5), 10 * 2 ** (1 + 0.1 / 0.6)),  # for good
        (ends(64, 0.1), None),  # the source was never trained for so long
    ],
)
def test_the_break_even_is_where_an_arm_passes_the_source_for_good(
    arm: Curve, tokens_per_parameter: float | None
) -> None:
    source = ends(1, 5.0, 4.0, 3.0, 2.0)
    assert break_even(arm, source) == pytest.approx(tokens_per_parameter)


def test_between_the_ends_of_schedules_the_loss_is_a_line_over_the_logarithm_of_flops() -> None:
    source = ends(1, 4.0, 3.0, 2.0)
    assert [loss_at(source, cost) for cost in (100, 400, 99, 401)] == [4.0, 2.0, None, None]
    assert loss_at(source, 100 * 2**0.5) == pytest.approx(3.5)


def test_the_loss_is_taken_more_often_where_clones_forget() -> None:
    assert sorted(evaluated(50, 20)) == [0, 1, 2, 4, 8, 16, 20, 40, 50]
