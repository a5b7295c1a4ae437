"""The fair report says what to use, at which rate, and how sure that is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ailora.errors import UserError
from ailora.lab.experiments.fair import Protocol, Search, fair
from ailora.lab.experiments.store import Failure, Store, Stored
from ailora.lab.report.best_to_best import best_to_best
from ailora.lab.report.fair_page import FairReport, as_markdown, write_fair
from ailora.lab.report.fair_parts import fair_parts
from ailora.lab.report.fair_plan import Plan, seconds_of
from ailora.lab.report.fair_verdict import FairPart
from ailora.lab.training import RunConfig
from tests.lab.report.looking import BROWSER, browse
from tests.lab.report.runs import run as made_run

ROWS = 200
Score = Callable[[RunConfig], float]


def part_of(folder: Path, methods: Sequence[str], score: Score, **protocol: object) -> FairPart:
    """The report of runs whose scores are a function; their predictions lie in a folder."""
    rng = np.random.default_rng(1)

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        return [(config, ended(folder, config, score(config), rng)) for config in runs]

    asked = settings(methods, **protocol)
    [part] = fair_parts(fair(asked, do), asked, Store(folder))
    return part


def settings(methods: Sequence[str], **protocol: object) -> Protocol:
    return Protocol(settings=[RunConfig(method=one, lr=1e-3) for one in methods], **protocol)  # type: ignore[arg-type]


def ended(folder: Path, config: RunConfig, score: float, rng: np.random.Generator) -> Stored:
    name, made_of = config.run_id("movies", "0"), asdict(config)
    if math.isnan(score):
        failure = Failure(config=made_of, kind="diverged", reason="nan")
        return Stored(run_id=name, state="failed", config=made_of, failure=failure)
    right = rng.random(ROWS) < score
    rows = [{"label": "a", "predicted": "a" if one else "b"} for one in right]
    (folder / name).mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / "predictions-test.jsonl").write_text(lines, encoding="utf-8")
    result = made_run(config.method, config.seed, float(right.mean()))
    result["config"] = made_of
    result["metrics"]["selection"]["accuracy"] = score
    return Stored(run_id=name, state="finished", config=made_of, result=result)


def peak(**best: float) -> Score:
    """0.7 at a method's best rate, 0.9 points less a quarter decade away, and so on."""

    def score(config: RunConfig) -> float:
        away = abs(math.log10(config.lr / best[config.method]))
        return 0.7 - 0.036 * away + 0.2 * (config.method == "milora")

    return score


def test_a_method_that_is_better_is_named_with_its_rate_and_how_sure_that_is(
    tmp_path: Path,
) -> None:
    score = peak(lora=1e-3, pissa=1e-4, milora=3.16e-4)
    part = part_of(tmp_path, ["lora", "pissa", "milora"], score)
    assert part.baseline == "LoRA"
    assert part.advice[0] == "Use MiLoRA (q, v) at learning rate 0.000316."
    assert "above that of LoRA (95 % interval +0." in part.advice[1]
    assert "over 5 seeds (p < 0.001, corrected for 2 comparisons)" in part.advice[1]
    verdicts = {row[0]: row[1] for row in part.score_rows}
    assert verdicts == {
        "MiLoRA (q, v)": "above LoRA",
        "LoRA": "baseline",
        "PiSSA (q, v)": "no difference shown",
    }
    assert all(one.both is not None for one in part.against.values())
    assert part.by_rows.startswith("Both drawn at random")
    rates = {row[0]: row[1:] for row in part.rate_rows}
    assert rates["PiSSA (q, v)"][:2] == ["0.0001", "0.1"]
    # 0.301 decades away at 0.036 a decade, between the rates at 0.25 and 0.5.
    assert rates["LoRA"][4:6] == ["0.011", "0.011"]
    # One rate to each side lies within a point; those lose exactly that.
    assert rates["LoRA"][3] == "0.000562 to 0.00178 (x 3.2)"
    assert rates["LoRA"][6] == "0.000316 to 0.00316 (5)"


def test_no_difference_says_what_could_have_been_seen(tmp_path: Path) -> None:
    part = part_of(tmp_path, ["lora", "pissa"], peak(lora=1e-3, pissa=1e-3))
    assert part.advice[0] == "Use LoRA at learning rate 0.001."
    assert "no other method was shown to be better over 5 seeds" in part.advice[1]
    smallest = part.against["PiSSA (q, v)"].smallest
    assert f"one that is better by {smallest:.3f} would be, in 80 of 100" in part.advice[1]


def test_without_lora_differences_are_to_the_method_named_first(tmp_path: Path) -> None:
    part = part_of(tmp_path, ["pissa", "milora"], peak(pissa=1e-3, milora=1e-3))
    assert (part.baseline, list(part.against)) == ("PiSSA (q, v)", ["MiLoRA (q, v)"])
    assert part.advice[0] == "Use MiLoRA (q, v) at learning rate 0.001."
    assert "above that of PiSSA (q, v)" in part.advice[1]


def test_one_method_is_compared_with_nothing(tmp_path: Path) -> None:
    part = part_of(tmp_path, ["pissa"], peak(pissa=1e-3))
    assert part.advice[:2] == [
        "Use PiSSA (q, v) at learning rate 0.001.",
        "How sure that is: nothing was compared with it.",
    ]


def test_where_nothing_was_learned_there_is_no_choice_yet(tmp_path: Path) -> None:
    def chance(config: RunConfig) -> float:
        return 0.4 if config.lr > 2e-3 else 0.48

    part = part_of(tmp_path, ["lora", "pissa"], chance)
    assert part.chance == (0.5, "always answering the commonest class")
    assert part.advice[0].startswith("No choice yet: LoRA at learning rate ")
    assert "is not shown to be above always answering the commonest class (0.500)" in part.advice[0]
    assert part.advice[1].startswith("How sure that is: no other method was shown to be better")


def test_a_correlation_is_held_against_one_number_for_every_row(tmp_path: Path) -> None:
    def end(config: RunConfig) -> Stored:
        score = 0.02 * (-1) ** config.seed + 0.001 * config.seed
        result = made_run(config.method, config.seed, 0.0) | {"majority": None}
        result["config"] = asdict(config)
        result["data"] |= {"metric": "spearman", "labels": None}
        result["metrics"] = {split: {"spearman": score} for split in ("selection", "test")}
        name = config.run_id("numbers", "0")
        return Stored(run_id=name, state="finished", config=asdict(config), result=result)

    asked = settings(["lora"])
    searches = fair(asked, lambda runs: [(run, end(run)) for run in runs])
    [part] = fair_parts(searches, asked, Store(tmp_path))
    assert "is not shown to be above always answering one number (0.000)" in part.advice[0]
    assert "Score of always answering one number: 0.0000." in part.about


def test_a_rate_that_is_not_settled_is_doubted(tmp_path: Path) -> None:
    def rising(config: RunConfig) -> float:
        lora = config.method == "lora"
        return 0.7 + 0.02 * math.log10(config.lr) if lora else peak(pissa=1e-3)(config)

    part = part_of(tmp_path, ["lora", "pissa"], rising)
    edge = "its best rate still lay at the edge of 17 rates"
    assert f"Doubts about LoRA: {edge}." in part.advice
    assert part.notes == [f"LoRA: {edge}."]
    part = part_of(tmp_path / "flat", ["lora"], lambda config: 0.7)
    assert "Doubts about LoRA: every rate scored the same on the selection rows." in part.advice


def test_seeds_that_diverge_when_reported_are_doubts(tmp_path: Path) -> None:
    def score(config: RunConfig) -> float:
        lost = config.method == "milora" and config.seed == 4
        return math.nan if lost else peak(lora=1e-3, milora=1e-3)(config)

    part = part_of(tmp_path, ["lora", "milora"], score, report=(2, 3, 4, 5, 6, 7))
    assert part.advice[0] == "Use MiLoRA (q, v) at learning rate 0.001."
    assert (
        "Doubts about MiLoRA (q, v): 1 of 6 reported runs failed at that rate and is not counted."
    ) in part.advice
    assert part.notes == ["MiLoRA (q, v): 1 reported run failed at its best rate: not counted."]


def test_methods_that_meet_at_several_ranks_have_a_baseline_each(tmp_path: Path) -> None:
    methods = [
        RunConfig(method=method, rank=rank, lr=1e-3)
        for rank in (4, 8)
        for method in ("lora", "pissa")
    ]
    asked, rng = Protocol(settings=methods), np.random.default_rng(1)

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        return [(config, ended(tmp_path, config, flat(config), rng)) for config in runs]

    parts = fair_parts(fair(asked, do), asked, Store(tmp_path))
    assert [part.title for part in parts] == [
        "movies with demo, rank 4", "movies with demo, rank 8",
    ]  # fmt: skip
    for part, rank in zip(parts, (4, 8), strict=True):
        assert (part.baseline, list(part.against)) == ("LoRA", ["PiSSA (q, v)"])
        assert f"rank {rank}" in part.about


def test_one_method_at_several_ranks_is_one_table(tmp_path: Path) -> None:
    asked = Protocol(settings=[RunConfig(method="pissa", rank=rank, lr=1e-3) for rank in (4, 8)])
    rng = np.random.default_rng(1)

    def do(runs: Sequence[RunConfig]) -> list[tuple[RunConfig, Stored]]:
        return [(config, ended(tmp_path, config, flat(config), rng)) for config in runs]

    [part] = fair_parts(fair(asked, do), asked, Store(tmp_path))
    assert list(part.reported) == ["PiSSA (q, v): rank 4", "PiSSA (q, v): rank 8"]
    assert part.baseline == "PiSSA (q, v): rank 4"
    assert "rank" not in part.about


def test_where_nothing_is_kept_of_rows_it_says_so(tmp_path: Path) -> None:
    part = part_of(tmp_path, ["lora", "pissa"], peak(lora=1e-3, pissa=1e-3), report=(2, 3))
    assert part.by_rows.startswith("There is none here (fewer than 3 seeds)")
    part = part_of(tmp_path / "b", ["lora", "pissa"], peak(lora=1e-3, pissa=1e-3))
    without = {
        label: {seed: replace(one, rows=None) for seed, one in own.items()}
        for label, own in part.reported.items()
    }
    against = best_to_best(without, part.baseline)
    part = replace(part, reported=without, against=against)
    assert "(nothing is kept of single rows)" in part.by_rows
    assert [row[5] for row in part.score_rows] == ["-", "-"]
    assert "over 5 seeds" in part.advice[1]
    kept = {seed: replace(one, rows=np.ones(3)) for seed, one in part.reported["LoRA"].items()}
    same = dict.fromkeys(part.reported, kept)
    part = replace(part, reported=same, against=best_to_best(same, "LoRA"))
    assert "(no row differs)" in part.by_rows


def test_a_rate_at_which_a_seed_diverges_loses_all(tmp_path: Path) -> None:
    def score(config: RunConfig) -> float:
        return math.nan if config.lr > 1.5e-3 else peak(lora=1e-3, pissa=1e-3)(config)

    part = part_of(tmp_path, ["lora", "pissa"], score)
    assert part.rate_rows[0][5] == "all (diverges)"
    assert "a rate twice as large diverges, one half as large loses 0.011" in part.advice[-1]


def test_what_diverges_everywhere_is_not_reported_and_named(tmp_path: Path) -> None:
    def score(config: RunConfig) -> float:
        return math.nan if config.method == "pissa" else peak(lora=1e-3)(config)

    part = part_of(tmp_path, ["lora", "pissa"], score)
    assert [curve.label for curve in part.curves] == ["LoRA"]
    assert part.notes == ["PiSSA (q, v): not reported: it diverged at each of 17 rates."]


def test_halving_says_what_it_saved_and_what_it_risks(tmp_path: Path) -> None:
    part = part_of(tmp_path, ["lora"], peak(lora=1e-3), halving=True)
    assert "halving saved 2 runs and dropped 2 rates, the best of them" in (part.notes[0])


def test_rates_that_halving_dropped_are_said_not_to_have_been_tried(tmp_path: Path) -> None:
    def score(config: RunConfig) -> float:  # of the first seed the lower rates alone are good
        return 0.7 - 0.1 * (config.lr > 1.2e-3) - 0.01 * abs(math.log10(config.lr) + 3)

    part = part_of(tmp_path, ["lora"], score, halving=True)
    assert part.curves[0].best == 1e-3
    assert part.advice[-1].endswith(
        "a rate twice as large was not tried with every seed, one half as large loses 0.003."
    )


def test_the_page_escapes_and_holds_answer_tables_and_curve(tmp_path: Path) -> None:
    asked = settings(["lora", "pissa"])
    part = part_of(tmp_path / "runs", ["lora", "pissa"], peak(lora=1e-3, pissa=1e-4))
    plan = Plan(protocol=asked, seconds=[10.0, 10.0])
    report = FairReport(
        parts=[part], protocol=asked, states={"finished": 1}, command="ailora <b>", plan=plan
    )
    page = write_fair(report, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert text.index("Use LoRA") < text.index("Best to best") < text.index("<svg")
    assert "ailora &lt;b&gt;" in text
    assert "5 (this plan)" in text
    table = (tmp_path / "out" / "figures" / "score_by_rate.csv").read_text(encoding="utf-8")
    assert table.splitlines()[0] == "setting,lr,mean,lowest,highest,chosen"
    assert sum(line.endswith("True") for line in table.splitlines()) == 2
    assert "| LoRA | baseline | 0.001 |" in as_markdown(report)


@BROWSER
@pytest.mark.parametrize("width", [400, 1280])
def test_a_real_browser_shows_it_without_sideways_scrolling(tmp_path: Path, width: int) -> None:
    asked = settings(["lora", "pissa", "ailora"])
    part = part_of(tmp_path / "runs", ["lora", "pissa", "ailora"], flat)
    endless = "/data/<b>" + "x" * 200 + ".csv"
    report = FairReport(
        parts=[replace(part, title=endless, without=[endless])],
        protocol=asked,
        states={"finished": 1},
        command=endless,
        plan=Plan(protocol=asked, seconds=[10.0] * 3),
    )
    seen = browse(write_fair(report, tmp_path / "out"), width, tmp_path)
    assert seen.client > width - 20  # less a vertical scroll bar
    assert seen.scroll <= seen.client
    assert len(seen.pictures) == 1
    assert seen.pictures[0] > 200
    assert seen.complaints == []


def flat(config: RunConfig) -> float:
    return 0.7 - 0.036 * abs(math.log10(config.lr) + 3)


def test_a_budget_keeps_as_many_reporting_seeds_as_fit() -> None:
    plan = Plan(protocol=settings(["lora", "pissa"]), seconds=[10.0, 20.0])
    # (7 rates x 2 seeds + 5) runs of 10 and of 20 s.
    assert (plan.runs(5), plan.time(5)) == (38, 570.0)
    assert len(plan.within(570).report) == 5
    assert plan.within(569).report == (2, 3, 4, 5)
    with pytest.raises(UserError, match="3 reporting seeds"):
        plan.within(300)
    assert (seconds_of("2h"), seconds_of("1.5 min"), seconds_of("90s")) == (7200, 90, 90)


def test_a_budget_is_for_what_is_left_to_do() -> None:
    asked = settings(["lora", "pissa"])  # 7 rates x 2 seeds + 5 each are expected
    lora, pissa = asked.settings

    def end(config: RunConfig) -> Stored:
        return Stored(run_id="x", state="finished", config=asdict(config))

    searched = {1e-3: {seed: end(lora) for seed in (0, 1, 2, 3)}, 1.78e-3: {0: end(lora)}}
    begun = {1e-3: {seed: end(pissa) for seed in (0, 1)}}
    searches = [
        Search(setting=lora, ends=searched, best=1e-3, rates=[1e-3], missing=[lora]),
        Search(setting=pissa, ends=begun, best=None, rates=[1e-3], missing=[pissa] * 8),
    ]
    plan = Plan(protocol=asked, seconds=[10.0, 20.0], searches=searches)
    assert (plan.runs(5), plan.done) == (38, 7)
    assert plan.left(5) == 3 + (14 - 2 + 5)
    assert plan.time(5) == 3 * 10 + 17 * 20
    assert plan.within(3 * 10 + 17 * 20).report == asked.report
    assert plan.within(360).report == asked.report[:4]
    assert "7 runs of these were done before and take no time" in plan.notes


def test_a_budget_says_what_it_costs_in_power_and_a_plan_what_it_rests_on() -> None:
    plan = Plan(protocol=settings(["lora", "pissa"]), seconds=[10.0, 20.0])
    assert plan.cost(5) == ""
    few = Plan(protocol=plan.within(569), seconds=plan.seconds)
    # (t4 + t4) / sqrt(5) at 5 %, and (t3 + t3) / sqrt(4).
    assert few.cost(5) == (
        "The budget leaves 4 of 5 reporting seeds. Its cost in power: the smallest difference "
        "seen is 2.1 s.d., no verdict, instead of 1.7 s.d.; below 5 seeds no difference is called "
        "shown."
    )
    assert plan.seen(1) == "none, no verdict"
    assert Plan(protocol=settings(["lora"]), seconds=[1.0]).seen(5) == "nothing to compare"
    assert "Times rest on a few measured steps" in plan.notes
    timed = plan.corrected(3.0, "the first 2 runs, 45 s each")
    assert timed.time(5) == 3 * plan.time(5)
    assert timed.whole == "By the first 2 runs, 45 s each: 38 runs take about 28 min."
    assert timed.time_of([RunConfig(method="pissa", lr=3e-3, seed=4)]) == 60


def test_settings_of_other_tasks_are_not_corrected_together() -> None:
    methods = [RunConfig(method=one, task=task) for one in ("lora", "pissa") for task in "ab"]
    plan = Plan(protocol=Protocol(settings=methods), seconds=[1.0] * 4)
    assert plan.seen(5) == Plan(protocol=settings(["lora", "pissa"]), seconds=[1.0] * 2).seen(5)
