"""Every command that the README and the documentation show runs; models and data are tiny."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ailora.lab.cli import sweeps
from ailora.lab.cli.main import app
from ailora.lab.experiments.engines.here import Here
from ailora.lab.experiments.grid import distinct
from ailora.lab.experiments.search import Search
from ailora.lab.experiments.sweep_file import read_search_table, read_sweep_file
from tests.commands import Ended
from tests.documents.pages import ROOT, commands

STAND_INS = {  # the published settings are found by the folder's name
    "FacebookAI/roberta-large": "roberta-large",
    "FacebookAI/roberta-base": "encoder",
    "distilbert/distilroberta-base": "encoder",
    "facebook/bart-base": "bart",
    "facebook/opt-125m": "decoder",
}
WRITES_TEXT = ("codes.jsonl", "chat.jsonl", "arithmetic", "scitldr")
TRAINS = ("train", "compare", "score")


def shrunk(line: str, models: dict[str, Path]) -> str:
    """The command on tiny models and few rows; what it does is the same."""
    for name, kind in STAND_INS.items():
        line = line.replace(name, str(models[kind]))
    command = line.split()[0]
    if command in ("sweep", "paper"):
        return of_many_runs(line, models)
    if command not in TRAINS or "runs/" in line:
        return line
    line = re.sub(r"--(eval-)?limit \d+", "", line)
    line = re.sub(r"(--lr|--seeds) ([^, ]+,[^, ]+),\S+", r"\1 \2", line)  # two of each
    line = line.replace("--rank 32", "--rank 8")
    if "--model" not in line:
        kind = "decoder" if any(name in line for name in WRITES_TEXT) else "encoder"
        line += f" --model {models[kind]}"
    if command != "score":
        line += " --limit 16 --epochs 1"
    if command == "compare":
        line += " --methods lora,ailora"
    line += " --plan" * ("--protocol fair" in line and "--plan" not in line)  # else it is 40 runs
    if "cola" in line and "--data" not in line:
        line += " --data DIR"  # the hub is out of reach
    if any(word in line for word in ("bart", "--preset", "opening_hours", "--max-length 256")):
        line += " --max-length 48"
    line += " --max-length 256" * ("chat.jsonl" in line)
    if "squad" in line or "opening_hours" in line:
        line += " --doc-stride 16"
    writes = any(name in line for name in WRITES_TEXT[1:])
    return line + " --eval-limit 4" + " --max-new-tokens 4" * writes


def of_many_runs(line: str, models: dict[str, Path]) -> str:
    """What needs a cluster or hours, and what another line has done, is planned only."""
    if "--engine ray" in line:
        return f"{line} --dry-run --no-estimate"
    if line.startswith("paper") and "--scale paper" not in line:
        line += f" --model {models['encoder']}" + " --dry-run" * ("--scale smoke" not in line)
    return line.replace("--search 20", "--search 2") + " --no-estimate"


@pytest.mark.parametrize(("line", "page"), commands().items())
def test_a_command_of_a_page_runs(
    line: str,
    page: str,
    here: Callable[[str], Ended],
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--watch" in line:
        monkeypatch.setattr("time.sleep", interrupted)
    if "--engine" not in line:  # else a process more per line, which takes longer than its runs
        monkeypatch.setattr(sweeps, "engine_named", lambda *_: Here())
    prepare(line, here, models)
    ended = here(shrunk(line.removeprefix("ailora "), models))
    assert ended.code == 0, f"{page}: {ended.err or ended.out}"


def prepare(line: str, call: Callable[[str], Ended], models: dict[str, Path]) -> None:
    """What an earlier command of the same page has left."""
    if "--folded-base" in line:
        assert call("init MODEL --out start").code == 0
        shutil.copytree("start/adapter", "TRAINED")
    for path in re.findall(r"(?:runs|results)/[\w-]+", line):
        a_run(path, path.partition("/")[2].partition("-")[0], call, models)
    if line.split()[1] in ("runs", "report"):
        for path, method in (("ailora-x-3fa9c10000", "ailora"), ("lora-x-88ab020000", "lora")):
            a_run(f"results/{path}", method, call, models)


def a_run(path: str, method: str, call: Callable[[str], Ended], models: dict[str, Path]) -> None:
    earlier = f"train --task reviews.csv --text body --label stars --method {method} --out made"
    assert call(shrunk(earlier, models)).code == 0
    (run,) = Path("made").iterdir()
    Path(path).parent.mkdir(exist_ok=True)
    run.rename(path)


def interrupted(seconds: float) -> None:
    raise KeyboardInterrupt


def test_the_sweep_of_the_page_is_a_sweep(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "sweep.md").read_text(encoding="utf-8")
    text = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    assert len(distinct(read_sweep_file(tmp_path / "sweep.toml"))) == 4 * 3 * 5


def test_the_search_of_the_page_is_a_search(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "sweep.md").read_text(encoding="utf-8")
    text = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "search.toml").write_text(text, encoding="utf-8")
    assert len(distinct(read_sweep_file(tmp_path / "search.toml"))) == 2 * 3
    search = Search.of(read_search_table(tmp_path / "search.toml"))
    assert search.distributions().keys() == {"lr", "rank"}


def test_commands_are_found() -> None:
    shown = {line.split()[1] for line in commands()}
    every = {command.name for command in app.registered_commands}
    assert every <= shown
