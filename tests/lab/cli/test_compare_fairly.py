"""``--protocol fair`` from the outside: a plan, rounds of runs, an answer, once."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from ailora.lab.cli import compare_fairly
from ailora.lab.experiments.calibration import Cost
from ailora.lab.experiments.fair_record import Record
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.experiments.store import Store
from ailora.lab.training import RunConfig
from tests.commands import Call, Ended, check_refused
from tests.lab.report.stores import full_run


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run costs ten seconds, without measuring."""
    cost = Cost(setup=10.0, step=0.0, row=0.0, memory=0)
    monkeypatch.setattr(compare_fairly, "measure", lambda config: cost)


@pytest.fixture(scope="module")
def common(tiny_model: Path, reviews: Path) -> str:
    settings = "--rank 2 --epochs 1 --batch-size 8 --evaluations 1 --lr 1e-2"
    return f"--model {tiny_model} --task {reviews} {settings} --methods lora,ailora"


def results(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}


def seeds_by_rate(out: Path) -> dict[tuple[str, float], set[int]]:
    found: dict[tuple[str, float], set[int]] = {}
    for run in Store(out / "runs").runs():
        config = RunConfig.from_json(run.config)
        found.setdefault((config.method, config.lr), set()).add(config.seed)
    return found


def words_of(ended: Ended) -> str:
    return re.sub(r"\s+", " ", ended.out)


@pytest.mark.slow
def test_rates_are_searched_and_reported_and_a_second_call_does_nothing(
    call: Call, common: str, tmp_path: Path
) -> None:
    out = tmp_path / "fair"
    command = f"compare {common} --protocol fair --choose-seeds 0 --seeds 1,2 --out {out}"
    first = call(command)
    assert first.code == 0, first.err
    assert "this plan" in first.out
    assert re.search(r"By the first 2 runs, .* each: 18 runs take about", words_of(first))
    assert "at the pace of the 2 runs so far" in words_of(first)
    assert words_of(first).count("to train on") == 1  # not in every round
    tried = seeds_by_rate(out)
    reported = [key for key, seeds in tried.items() if seeds == {0, 1, 2}]
    assert sorted(method for method, _ in reported) == ["ailora", "lora"]
    assert all(seeds == {0} for key, seeds in tried.items() if key not in reported)
    verdict = "No choice yet: LoRA at learning rate"  # so small a model learns nothing
    assert verdict in words_of(first)
    assert "2 seeds cannot show another to be better" in words_of(first)
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in ("Best to best", "Learning rates", verdict, "<svg"):
        assert words in page
    assert "<script" not in page
    assert (out / "figures" / "score_by_rate.csv").is_file()
    assert verdict in (out / "summary.md").read_text(encoding="utf-8")

    before = results(out)
    again = call(command)
    assert again.code == 0
    assert results(out) == before
    assert words_of(again).split(verdict)[1] == words_of(first).split(verdict)[1]


def test_a_plan_writes_nothing_and_says_hours_and_power(
    call: Call, common: str, tmp_path: Path
) -> None:
    ended = call(f"compare {common} --protocol fair --plan --out {tmp_path / 'out'}")
    assert ended.code == 0
    assert not (tmp_path / "out").exists()
    words = words_of(ended)
    # 2 methods x (7 rates x 2 seeds + 5) runs of 10 s; 5 seeds see (t4 + t4) / sqrt(5) s.d.
    assert re.search(r"5 \(this plan\) │ 38 │ about 6 min │ 1\.7 s\.d\.", words)
    assert re.search(r"3 │ 34 │ about 6 min │ 3\.1 s\.d\., no verdict", words)


def test_a_budget_leaves_out_reporting_seeds_or_is_refused(
    call: Call, common: str, tmp_path: Path
) -> None:
    fair_plan = f"compare {common} --protocol fair --plan --out {tmp_path / 'out'} --budget"
    assert "4 (this plan)" in call(f"{fair_plan} 6m").out  # 36 runs of 10 s
    check_refused(call(f"{fair_plan} 1m"), "3 reporting seeds and the search for rates take about")
    check_refused(call(f"{fair_plan} soon"), "give a time such as 45m or 2h")


def test_a_slow_machine_is_noticed_at_the_first_runs_and_the_budget_kept(
    call: Call, common: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(runs: list[RunConfig], store: Store, *_: object, **__: object) -> None:
        for run in runs:
            name = compare_fairly.jobs_of([run], tasks[0], store)[0].run_id
            if (store.path / name).exists():
                continue
            clock[0] += 15.0  # where a few steps said 10
            result = full_run(run.method, run.seed, 0.7) | {"config": asdict(run)}
            result["data"]["fingerprint"] = tasks[0].of(run).fingerprint
            (store.path / name).mkdir(parents=True)
            (store.path / name / "result.json").write_text(json.dumps(result))

    clock, tasks = [0.0], [Tasks()]
    monkeypatch.setattr(compare_fairly.sweeps, "do_runs", slowly)
    monkeypatch.setattr(compare_fairly.time, "monotonic", lambda: clock[0])
    out = tmp_path / "out"
    command = f"compare {common} --protocol fair --budget 9m --out {out}"
    ended = call(command)
    assert ended.code == 0, ended.err
    words = words_of(ended)
    assert "5 (this plan)" in words  # 38 runs of 10 s fit
    assert "By the first 2 runs, 15 s each: 36 runs take about 9 min. The budget leaves 4" in words
    assert "Its cost in power: the smallest difference seen is" in words
    assert "about 8 min left for 34 runs, at the pace of the 2 runs so far" in words
    assert Record.read(out / "runs").protocol.report == (2, 3, 4, 5)  # type: ignore[union-attr]
    before = results(out)
    assert call(command).code == 0
    assert results(out) == before  # the same command keeps the seeds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--protocol best", "there is only 'fair'"),
        ("--budget 2h", "--budget is an option of --protocol fair"),
        ("--protocol fair --seeds 0,1", "seed 0 chooses the rate and is reported"),
        ("--protocol fair --lr 1e-3,2e-3", "--protocol fair chooses the rates itself"),
    ],
)
def test_what_does_not_go_together_is_refused(
    call: Call, common: str, tmp_path: Path, given: str, words: str
) -> None:
    out = tmp_path / "out"
    options = common.replace("--lr 1e-2", "") if "--lr" in given else common
    check_refused(call(f"compare {options} {given} --out {out}"), words)
    assert not out.exists()


def test_a_sweep_file_may_not_list_rates(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text("[grid]\nmethod = ['lora', 'ailora']\nlr = [1e-3, 2e-3]\n")
    ended = call(f"sweep {file} --protocol fair --out {tmp_path / 'out'}")
    check_refused(ended, "--protocol fair chooses the rates itself")


def test_a_budget_on_ray_and_a_search_beside_it_are_refused(
    call: Call, common: str, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    file = tmp_path / "sweep.toml"
    file.write_text("[grid]\nmethod = ['lora', 'ailora']\n[search.space]\nlr = [1e-3, 2e-3]\n")
    out = tmp_path / "out"
    check_refused(
        call(f"sweep {file} --protocol fair --out {out}"), "--protocol fair searches the rates"
    )
    file.write_text("[grid]\nmethod = ['lora', 'ailora']\n")
    command = f"sweep {file} --protocol fair --budget 2h --engine ray --out {out}"
    check_refused(call(command), "--budget needs the time of a run")
    assert not out.exists()
