"""``ailora sweep`` and ``ailora runs`` from the outside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ailora.lab.cli import sweeps
from ailora.lab.experiments import Store, sweep
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.engines.local import Local
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.jobs import Tasks
from ailora.lab.experiments.sweep_file import read_sweep_file
from ailora.lock import held
from tests.commands import Call, check_refused

GRID = "method = ['lora', 'ailora']\nlr = [1e-2, 2e-2, 1e30]\n"


@pytest.fixture(scope="module")
def plan(tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small runs, two of which diverge, and two whose data is nowhere."""
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(
        f"[common]\nmodel = '{tiny_model}'\ntask = '{reviews}'\nrank = 2\nepochs = 1\n"
        f"batch_size = 8\n[[grid]]\n{GRID}"
        f"[[grid]]\nseed = [0, 1]\ncommon = {{task = '{path.parent / 'nowhere.csv'}'}}\n"
    )
    return path


@pytest.fixture(scope="module")
def finished(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their store, when all has ended."""
    out = tmp_path_factory.mktemp("stores") / "finished"
    tasks = Tasks()
    sweep(distinct(read_sweep_file(plan)), Store(out), Here(tasks), tasks=tasks)
    return out


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(finished, tmp_path / "store")


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are done in this process: workers need ten seconds to start."""
    monkeypatch.setattr(sweeps, "engine_named", lambda *_: Here())


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    call: Call, plan: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    before = files(store)
    (victim,) = [p.parent for p in store.glob("ailora*/result.json")][:1]
    (victim / "result.json").rename(victim / "kept")
    changed = files(store)
    ended = call(f"sweep {plan} --dry-run --no-estimate --out {store}")
    assert ended.code == 0, ended.err
    assert "lr: 0.01, 0.02, 1e+30" in ended.out
    (counted,) = (line for line in ended.out.splitlines() if line.startswith("8 runs: "))
    assert set(counted.split(": ")[1].strip().split(", ")) == {
        "3 finished",
        "4 failed",
        "1 interrupted",
    }
    assert "warning: no task, file or folder is called" in ended.out
    assert files(store) == changed != before
    ended = call(f"sweep {plan} --dry-run --no-estimate --out new")
    assert "8 runs" in ended.out
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_measures_and_still_writes_nothing(call: Call, plan: Path) -> None:
    ended = call(f"sweep {plan} --dry-run --workers 1 --threads 1 --out new")
    assert ended.code == 0, ended.err
    assert "s for 6 runs, 1 at a time with 1 thread each" in ended.out
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("_here")
def test_a_sweep_goes_on_after_failures_and_says_why(
    call: Call, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = call(f"sweep {plan} --out out")
    assert ended.code == 1
    assert ended.err == ""
    assert len(list(Path("out").glob("*/result.json"))) == 4
    lines = ended.out.splitlines()
    assert sum("failed (diverged): training diverged" in line for line in lines) == 4  # and the end
    assert sum("failed (input): no task, file or folder" in line for line in lines) == 4
    assert "4 finished runs" in ended.out
    assert "8 of 8 ended, 0 running, 4 failed" in ended.out
    (line,) = (line for line in lines if line.startswith("│ ailora │ "))
    rates = [0.01, 0.02]
    results = [json.loads(path.read_text()) for path in Path("out").glob("ailora*/result.json")]
    best = max(results, key=lambda run: run["metrics"]["selection"]["accuracy"])
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert float(cells[2]) == best["config"]["lr"] in rates
    assert cells[-1] == f"{best['metrics']['test']['accuracy']:.4f}"


@pytest.mark.usefixtures("_here")
def test_a_second_call_runs_nothing_unless_failures_are_to_be_retried(
    call: Call, plan: Path, store: Path
) -> None:
    results = {path: path.stat().st_mtime_ns for path in store.glob("*/result.json")}
    again = call(f"sweep {plan} --out {store}")
    assert again.code == 1
    assert "test accuracy" not in again.out, "nothing ended just now"
    retried = call(f"sweep {plan} --out {store} --retry-failed")
    assert retried.code == 1
    assert retried.out.count("training diverged") == 4
    assert results == {path: path.stat().st_mtime_ns for path in store.glob("*/result.json")}


@pytest.mark.usefixtures("_here")
def test_a_sweep_without_failures_ends_well(call: Call, plan: Path) -> None:
    text = plan.read_text().partition("[[grid]]")[0]
    Path("one.toml").write_text(text)
    assert call("sweep one.toml --out out").code == 0


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("[common]\nrnk = 2", "", "did you mean 'rank'"),
        ("", "--engine moon", "must be local or ray"),
        ("", "--workers 0", "workers=0: must be at least 1"),
        ("", "--engine ray --cpus-per-run 0", "cpus_per_run=0"),
    ],
)
def test_bad_input_ends_in_one_line(text: str, options: str, words: str, call: Call) -> None:
    Path("plan.toml").write_text(text)
    check_refused(call(f"sweep plan.toml {options}"), words)
    assert [path.name for path in Path().iterdir()] == ["plan.toml"]


def test_the_engine_is_the_one_asked_for() -> None:
    assert isinstance(sweeps.engine_named("local", 2, 1, None, 1, 0), Local)
    ray = pytest.importorskip("ailora.lab.experiments.engines.ray")
    found = sweeps.engine_named("ray", None, None, "a:1", 2, 0.5)
    assert isinstance(found, ray.OnRay)
    assert found.resources == {"num_cpus": 2, "num_gpus": 0.5}


# ailora runs ---------------------------------------------------------------------------------


def listed(call: Call, line: str) -> list[dict[str, object]]:
    ended = call(line)
    assert ended.code == 0, ended.err
    found: list[dict[str, object]] = json.loads(ended.out)
    return found


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("", 8),
        ("--state finished", 4),
        ("--state failed", 4),
        ("--state running", 0),
        ("--where method=lora", 3),
        ("--where method=lora --where lr=0.01", 1),
        ("--where lr=1e30", 2),
        ("--where rank=2 --state finished", 4),
        ("--where lora_alpha=none", 8),
        ("--where answer_batch_size=32", 8),
        ("--where lr=fast", 0),
    ],
)
def test_runs_are_listed_by_state_and_setting(
    options: str, count: int, call: Call, finished: Path
) -> None:
    found = listed(call, f"runs {finished} {options} --json")
    assert len(found) == count


def test_the_table_shows_what_differs_and_how_it_ended(
    call: Call, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = call(f"runs {finished}")
    assert "4 finished, 4 failed" in ended.out
    assert ended.out.count("test accuracy ") == 4
    assert ended.out.count("failed (diverged)") == 2
    assert " task " in ended.out.splitlines()[1]
    assert " rank " not in ended.out.splitlines()[1]


def test_a_run_is_shown_by_a_part_of_its_name(call: Call, finished: Path) -> None:
    (path, *_) = finished.glob("*/result.json")
    result = json.loads(path.read_text())
    ended = call(f"runs {finished} show {path.parent.name[-6:]}")
    assert ended.code == 0, ended.err
    assert f"accuracy {result['metrics']['test']['accuracy']:.4f}" in ended.out
    assert f"lr: {result['config']['lr']}" in ended.out
    as_json = call(f"runs {finished} show {path.parent.name} --json")
    assert json.loads(as_json.out)["result"] == result


def test_two_runs_are_compared_by_what_differs(call: Call, finished: Path) -> None:
    one, two = (
        next(
            path.parent.name
            for path in finished.glob("*/result.json")
            if json.loads(path.read_text())["config"] | {"method": method, "lr": 0.01}
            == json.loads(path.read_text())["config"]
        )
        for method in ("lora", "ailora")
    )
    found = json.loads(call(f"runs {finished} compare {one} {two} --json").out)
    assert found["runs"] == [one, two]
    settings = {name for name in found["differing"] if " " not in name}
    assert settings == {"method"}
    assert found["differing"]["method"] == ["lora", "ailora"]
    table = call(f"runs {finished} compare {one} {two}")
    assert "method" in table.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runs nowhere", "nowhere: no such folder"),
        ("runs {} --state done", "must be finished, running"),
        ("runs {} --where method", "key=value"),
        ("runs {} --where methd=lora", "did you mean 'method'"),
        ("runs {} show", "show takes 1 names"),
        ("runs {} compare a", "compare takes 2 names"),
        ("runs {} show ora", "give more of it"),
        ("runs {} show zzz", "no run is called 'zzz'"),
        ("runs {} burn", "none of list, show, compare, prune"),
        ("runs {} list a", "list takes 0 names"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(
    line: str, words: str, call: Call, finished: Path
) -> None:
    check_refused(call(line.format(finished)), words)


def test_pruning_asks_and_deletes_what_came_to_nothing(
    call: Call, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (interrupted, *_) = (path.parent for path in store.glob("*/result.json"))
    (interrupted / "result.json").unlink()
    (store / "my own folder").mkdir()
    before = files(store)
    assert "5 runs would be deleted" in call(f"runs {store} prune --dry-run").out
    monkeypatch.setattr("typer.confirm", lambda _: False)
    assert call(f"runs {store} prune").code == 1
    assert files(store) == before
    assert "4 runs deleted" in call(f"runs {store} prune --state failed --yes").out
    assert interrupted.exists()
    monkeypatch.setattr("typer.confirm", lambda _: True)
    assert "1 run deleted" in call(f"runs {store} prune").out
    assert len(list(store.glob("*/result.json"))) == 3
    assert (store / "my own folder").exists()
    assert "0 runs would be deleted" in call(f"runs {store} prune --yes").out


def test_a_running_run_is_listed_with_its_process_and_not_pruned(call: Call, store: Path) -> None:
    (path, *_) = (path.parent for path in store.glob("*/result.json"))
    (path / "result.json").unlink()
    with held(path):
        (found,) = listed(call, f"runs {store} --state running --json")
        assert f"process {os.getpid()}" in str(found["owner"])
        call(f"runs {store} prune --yes")
        assert (path / "config.json").exists()


def test_a_setting_of_another_version_does_not_stop_the_list(call: Call, store: Path) -> None:
    (path, *_) = store.glob("*/result.json")
    result = json.loads(path.read_text())
    del result["config"]["rank"]
    result["config"]["moon"] = 3
    path.write_text(json.dumps(result))
    assert len(listed(call, f"runs {store} --json")) == 8
    assert call(f"runs {store}").code == 0
