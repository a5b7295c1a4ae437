"""``ailora inspect`` on models of several parts, as a shell calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Call, check_refused
from tests.image_and_text import build


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    build("llava").save_pretrained(tmp_path / "llava")
    return tmp_path / "llava"


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        ("", {"language_model"}, {"vision_tower", "multi_modal_projector"}),
        ("--parts vision", {"vision_tower"}, {"language_model", "multi_modal_projector"}),
        ("--parts projector", {"multi_modal_projector"}, {"language_model", "vision_tower"}),
        (
            "--parts projector,vision",
            {"vision_tower", "multi_modal_projector"},
            {"language_model"},
        ),
    ],
)
def test_parts_choose_what_is_listed(
    call: Call, llava: Path, options: str, there: set[str], absent: set[str]
) -> None:
    ended = call(f"inspect {llava} {options}")
    assert ended.code == 0, ended.err
    assert all(name in ended.out for name in there)
    assert not any(name in ended.out for name in absent)


def test_parts_choose_whose_spectra_are_shown(call: Call, llava: Path) -> None:
    language = call(f"inspect {llava} --spectra --rank 2")
    vision = call(f"inspect {llava} --spectra --rank 2 --parts vision")
    assert language.code == vision.code == 0, vision.err
    assert language.out.count(" first 2 ") == vision.out.count(" first 2 ") == 2
    assert language.out != vision.out


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("sound", "--parts 'sound': name some of language, vision, audio, projector"),
        ("''", "--parts ''"),
        ("audio", "parts names 'audio'"),
    ],
)
def test_what_is_no_part_ends_in_one_line(call: Call, llava: Path, parts: str, words: str) -> None:
    check_refused(call(f"inspect {llava} --parts {parts}"), words)
