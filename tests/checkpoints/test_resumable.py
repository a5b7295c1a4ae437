"""Runs that go on where they were, in a folder that is theirs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ailora.checkpoints import open_checkpoint
from ailora.checkpoints.resumable import Record, begin, fingerprint, require_room, whole_folder
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


def test_a_run_killed_as_it_wrote_its_plan_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".plan.json.x1.tmp").write_text("{")
    begin(tmp_path, "plan.json", PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    begin(tmp_path, "plan.json", PLAN)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".shard.x1.tmp").touch()
    (tmp_path / ".adapter.x2.tmp").mkdir()
    (tmp_path / ".adapter.x2.tmp" / "half").touch()
    begin(tmp_path, "plan.json", PLAN)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "plan.json"]


def test_the_records_of_a_run_killed_right_after_its_report_are_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = begin(tmp_path, "plan.json", PLAN)
    work.add_record("a", Record(rows=[], tensors={}))
    with monkeypatch.context() as patch:
        patch.setattr("ailora.checkpoints.resumable.shutil.rmtree", lambda *_, **__: None)
        work.finish([])
    assert len(list(tmp_path.iterdir())) == 2
    assert begin(tmp_path, "plan.json", PLAN).report == ()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "out", 1)
    with pytest.raises(UserError, match="GB free"):
        require_room(tmp_path / "new" / "out", 10**18)


def test_a_model_is_told_from_another_with_the_same_shapes(tmp_path: Path) -> None:
    one = open_checkpoint(saved(tmp_path / "one"))
    two = open_checkpoint(saved(tmp_path / "two"))
    assert fingerprint(one) == fingerprint(open_checkpoint(tmp_path / "one"))
    assert fingerprint(one) != fingerprint(two)


def test_a_folder_that_fails_in_the_middle_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="free some space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_its_files_have_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "out") as folder:
            save_file({"a": torch.zeros(1)}, folder / "a.safetensors")  # makes a private file
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "a.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("made", [True, False])
def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path, made: bool) -> None:
    """A link to a larger disk, say, before anything is there, and after."""
    real, link = tmp_path / "disk" / "out", tmp_path / "out"
    if made:
        real.mkdir(parents=True)
    link.symlink_to(real)
    for content in ("one", "two"):
        with whole_folder(link) as folder:
            (folder / "a").write_text(content)
    assert link.is_symlink()
    assert (real / "a").read_text() == "two"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "disk", "out", "out"]


def test_a_folder_whose_name_is_nearly_too_long_is_written_or_refused(tmp_path: Path) -> None:
    for length in range(225, 257):
        out = tmp_path / ("x" * length)
        try:
            with whole_folder(out) as folder:
                (folder / "a").touch()
        except UserError as error:
            assert "File name too long" in str(error)
            assert list(tmp_path.iterdir()) == []
        else:
            assert [path.name for path in tmp_path.rglob("*")] == [out.name, "a"]
            shutil.rmtree(out)


def test_an_unwritable_place_is_named() -> None:
    with (
        pytest.raises(UserError, match="cannot write /proc/nobody/x"),
        whole_folder(Path("/proc/nobody/x")),
    ):
        pass


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    inner = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == tmp_path / "out" and not self.name.endswith(".old.tmp"):
            raise OSError(28, "No space left on device")
        return inner(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match="No space left"), whole_folder(tmp_path / "out") as fresh:
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
