"""Every command that the README and the documentation show runs; models and data are tiny."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ended
from tests.documents.pages import commands

STAND_INS = {  # the published settings are found by the folder's name
    "FacebookAI/roberta-large": "roberta-large",
    "FacebookAI/roberta-base": "encoder",
    "distilbert/distilroberta-base": "encoder",
    "facebook/bart-base": "bart",
}
WRITES_TEXT = ("codes.jsonl", "arithmetic")
TRAINS = ("train", "compare", "score")


def shrunk(line: str, models: dict[str, Path]) -> str:
    """The command on tiny models and few rows; what it does is the same."""
    for name, kind in STAND_INS.items():
        line = line.replace(name, str(models[kind]))
    command = line.split()[0]
    if command not in TRAINS or "runs/" in line:
        return line
    line = re.sub(r"--(eval-)?limit \d+", "", line).replace("--seeds 0,1,2,3,4", "--seeds 0,1")
    line = line.replace("--rank 32", "--rank 8")
    if "--model" not in line:
        kind = "decoder" if any(name in line for name in WRITES_TEXT) else "encoder"
        line += f" --model {models[kind]}"
    if command != "score":
        line += " --limit 16 --epochs 1"
    if command == "compare":
        line += " --methods lora,ailora"
    if "cola" in line and "--data" not in line:
        line += " --data DIR"  # the hub is out of reach
    if any(word in line for word in ("bart", "--preset", "opening_hours")):
        line += " --max-length 48"
    if "squad" in line or "opening_hours" in line:
        line += " --doc-stride 16"
    return line + " --eval-limit 4" + (" --max-new-tokens 4" if "arithmetic" in line else "")


@pytest.mark.parametrize(("line", "page"), commands().items())
def test_a_command_of_a_page_runs(
    line: str, page: str, here: Callable[[str], Ended], models: dict[str, Path]
) -> None:
    prepare(line, here, models)
    ended = here(shrunk(line.removeprefix("ailora "), models))
    assert ended.code == 0, f"{page}: {ended.err or ended.out}"


def prepare(line: str, call: Callable[[str], Ended], models: dict[str, Path]) -> None:
    """What an earlier command of the same page has left."""
    if "--folded-base" in line:
        assert call("init MODEL --out start").code == 0
        shutil.copytree("start/adapter", "TRAINED")
    if "runs/" in line:
        earlier = "train --task reviews.csv --text body --label stars"
        assert call(shrunk(earlier, models)).code == 0
        (run,) = Path("runs").iterdir()
        run.rename(re.findall(r"runs/[\w-]+", line)[0])


def test_commands_are_found() -> None:
    shown = {line.split()[1] for line in commands()}
    assert {"compare", "train", "score", "inspect", "params", "init", "export", "cache"} <= shown
