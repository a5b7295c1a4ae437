"""What tests run elsewhere is in a process of its own, and what goes wrong there is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.other_process import run_elsewhere


def test_each_call_has_a_process_with_peft_and_without_ailora() -> None:
    code = "import os, sys; print(os.getpid(), 'peft' in sys.modules, 'ailora' in sys.modules)"
    first, second = (run_elsewhere(code).split() for _ in range(2))
    assert len({first[0], second[0], str(os.getpid())}) == 3
    assert first[1:] == second[1:] == ["True", "False"]


def test_nothing_is_left_of_earlier_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_elsewhere("import sys, torch, ailora; torch.earlier = sys.earlier = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE", "now")
    code = (
        "import os, sys, torch\n"
        "print(hasattr(torch, 'earlier'), 'ailora' in sys.modules, os.getcwd(), os.environ['HERE'])"
    )
    assert run_elsewhere(code).split() == ["False", "False", str(tmp_path), "now"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("import sys; sys.exit('not so')", "not so"),
        ("import ailora_of_nobody", "No module named"),
        ("import os, sys; print('dead', file=sys.stderr, flush=True); os.abort()", "dead"),
    ],
)
def test_what_fails_there_fails_here(code: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run_elsewhere(code)


def test_arguments_and_output_are_passed() -> None:
    assert run_elsewhere("import sys; print(*sys.argv[1:])", "one", 2, Path("x")) == "one 2 x\n"
