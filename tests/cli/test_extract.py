"""``ailora extract`` as a shell calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoints.models import files, saved, tiny
from tests.commands import Call, check_refused


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, model = saved(tmp_path / "base"), tiny("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "v_proj" in name or name == "model.norm.weight":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "tuned")
    return base, tmp_path / "tuned"


def test_ranks_errors_and_what_is_left_out_are_said(
    call: Call, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    base, tuned = pair
    ended = call(f"extract {base} {tuned} --rank 4 --out adapter")
    assert ended.code == 0, ended.err
    assert ended.out.count("v_proj") == 2
    assert "model.norm.weight" in ended.out
    assert "adapter of rank 4: adapter" in ended.out
    assert "unchanged layers left out" in ended.out
    assert f"for the model: {base}" in ended.out
    assert Path("adapter/adapter_model.safetensors").exists()
    whole = call(f"extract {base} {tuned} --rank 0.95 --modules-to-save norm,lm_head --out more")
    assert whole.code == 0, whole.err
    assert "in full" in whole.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--rank many", "--rank many"),
        ("--rank 0", "rank=0"),
        ("--rank 1.5", "--rank 1.5"),
        ("--rank 4 --modules-to-save nrom", "nrom"),
        ("--rank 4 --out {base}", "not empty"),
        ("--rank 4 --out /proc/nobody/x", "/proc/nobody/x"),
    ],
)
def test_bad_input_ends_in_one_line_and_changes_nothing(
    call: Call, pair: tuple[Path, Path], tmp_path: Path, options: str, words: str
) -> None:
    base, tuned = pair
    before = files(tmp_path)
    ended = call(f"extract {base} {tuned} --out out {options.format(base=base)}")
    check_refused(ended, words)
    assert files(tmp_path) == before


@pytest.mark.parametrize("line", ["{base} ./nowhere", "./nowhere {base}", "{base} {base}"])
def test_a_pair_that_is_none_ends_in_one_line(
    call: Call, pair: tuple[Path, Path], line: str
) -> None:
    ended = call(f"extract {line.format(base=pair[0])} --rank 4 --out out")
    check_refused(ended, "BASE and as TUNED" if "nowhere" not in line else "nowhere")
    assert not Path("out").exists()
