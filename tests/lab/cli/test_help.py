"""Help is quick, and teaches by example."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from tests.commands import Call

START = "import sys; sys.argv = ['ailora', '--help']; from ailora.lab.cli.main import main\n"


def test_help_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    code = START + (
        "import atexit\n"
        "heavy = ('torch', 'transformers', 'peft', 'datasets', 'numpy', 'matplotlib')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        "main()"
    )
    times = []
    for _ in range(2):  # the machine may be busy once
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        times.append(time.perf_counter() - began)
    assert done.stdout.rstrip().endswith("[]")
    assert min(times) < 1
    for command in ("compare", "train", "inspect"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["compare", "train", "inspect", "analyze", "paper"])
def test_each_command_has_an_example_and_says_what_each_option_is_for(
    command: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = call(f"{command} --help")
    assert ended.code == 0
    assert "Example" in ended.out
    assert f"ailora {command}" in ended.out.split("Example")[1]
    options = [line for line in ended.out.splitlines() if line.startswith("│ --")]
    assert options
    # option, type, and at least two words of help
    assert all(len(line.strip("│ ").split()) >= 4 for line in options)


@pytest.mark.parametrize("width", [40, 60])
@pytest.mark.parametrize(
    "command", ["init", "export", "check", "cache", "params", "score", "runs", "train"]
)
def test_no_option_or_word_of_help_is_cut_on_a_narrow_terminal(
    command: str, width: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    wide = call(f"{command} --help").out
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = call(f"{command} --help").out
    options = set(re.findall(r"--[a-z][a-z-]+", wide))
    assert options <= set(re.findall(r"--[a-z][a-z-]+", narrow))
    assert "\u2026" not in narrow
    assert max(map(len, narrow.splitlines())) <= max(width, 50)


def test_without_a_command_there_is_help(call: Call) -> None:
    assert "compare" in call("").out
