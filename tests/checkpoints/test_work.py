"""Runs that go on where they were, in a folder that is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ailora.checkpoints import open_checkpoint
from ailora.checkpoints.work import Record, begin, fingerprint, require_room
from ailora.errors import UserError
from tests.checkpoints.models import saved

PLAN = {"r": 8, "names": ("a", "b"), "model": {"x": "1"}}


def test_a_record_comes_back_bit_for_bit_until_the_run_is_finished(tmp_path: Path) -> None:
    work = begin(tmp_path / "out", "plan.json", PLAN)
    value = torch.randn(3, dtype=torch.float64)
    work.add_record("a", Record(rows=[{"x": 0.1}], tensors={"t": value}))
    again = begin(tmp_path / "out", "plan.json", PLAN)
    assert again.record("b") is None
    record = again.record("a")
    assert record is not None
    assert record.rows == [{"x": 0.1}]
    assert torch.equal(record.tensors["t"], value)
    again.finish([{"x": 0.1}])
    finished = begin(tmp_path / "out", "plan.json", PLAN)
    assert finished.report == ({"x": 0.1},)
    assert finished.record("a") is None


def test_another_plan_in_the_same_folder_is_refused_by_what_differs(tmp_path: Path) -> None:
    begin(tmp_path, "plan.json", PLAN)
    with pytest.raises(UserError, match=r"another r \(8, now 4\)"):
        begin(tmp_path, "plan.json", {**PLAN, "r": 4})
    with pytest.raises(UserError, match="another model"):
        begin(tmp_path, "plan.json", {**PLAN, "model": {"x": "2"}})


def test_a_folder_with_other_things_in_it_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        begin(tmp_path, "plan.json", PLAN)
    with pytest.raises(UserError, match="is a file"):
        begin(tmp_path / "mine.txt", "plan.json", PLAN)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(UserError, match="not a plan"):
        begin(tmp_path, "plan.json", PLAN)


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    begin(tmp_path, "plan.json", PLAN)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".shard.x1.tmp").touch()
    (tmp_path / ".adapter.x2.tmp").mkdir()
    (tmp_path / ".adapter.x2.tmp" / "half").touch()
    begin(tmp_path, "plan.json", PLAN)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "plan.json"]


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "out", 1)
    with pytest.raises(UserError, match="GB free"):
        require_room(tmp_path / "new" / "out", 10**18)


def test_a_model_is_told_from_another_with_the_same_shapes(tmp_path: Path) -> None:
    one = open_checkpoint(saved(tmp_path / "one"))
    two = open_checkpoint(saved(tmp_path / "two"))
    assert fingerprint(one) == fingerprint(open_checkpoint(tmp_path / "one"))
    assert fingerprint(one) != fingerprint(two)
