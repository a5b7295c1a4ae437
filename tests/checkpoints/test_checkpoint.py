"""Finding a checkpoint's files, and what is said of those that are not right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ailora.checkpoints import open_checkpoint
from ailora.checkpoints.checkpoint import INDEX
from ailora.errors import UserError
from tests.checkpoints.models import saved


@pytest.mark.parametrize("shards", [False, True])
def test_every_tensor_is_found_in_one_file_or_several(tmp_path: Path, shards: bool) -> None:
    folder = saved(tmp_path / "model", shards=shards)
    checkpoint = open_checkpoint(folder)
    assert (len(checkpoint.shards) > 2) is shards
    expected = {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert checkpoint.where.keys() == expected.keys()
    assert all(torch.equal(checkpoint.tensor(name), expected[name]) for name in expected)


def test_configuration_and_tokeniser_belong_to_it_and_old_weights_do_not(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", shards=True)
    for name in ("tokenizer.json", "tokenizer.model", "merges.txt", "LICENSE", "chat.jinja"):
        (folder / name).write_text("x")
    for name in ("pytorch_model.bin", "modeling.py", ".secret.json", "optimizer.pt", "README.md"):
        (folder / name).write_text("x")
    names = {path.name for path in open_checkpoint(folder).other_files()}
    assert names >= {"config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "LICENSE"}
    assert names <= {path.name for path in folder.iterdir()} - {
        "pytorch_model.bin",
        "modeling.py",
        ".secret.json",
        "optimizer.pt",
        INDEX,
    }


def spoil(folder: Path, kind: str) -> None:
    shards = sorted(folder.glob("model-*.safetensors"))
    index = json.loads((folder / INDEX).read_text())
    if kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "pickled weights alone":
        for path in (*shards, folder / INDEX):
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"x")
    elif kind == "no weights":
        for path in (*shards, folder / INDEX):
            path.unlink()
    elif kind == "an absent shard":
        shards[1].unlink()
    elif kind == "a truncated shard":
        shards[1].write_bytes(shards[1].read_bytes()[:-100])
    elif kind == "a tensor that its shard lacks":
        index["weight_map"]["model.ghost.weight"] = shards[0].name
        (folder / INDEX).write_text(json.dumps(index))
    elif kind == "a file elsewhere":
        index["weight_map"]["model.norm.weight"] = "../outside.safetensors"
        (folder / INDEX).write_text(json.dumps(index))
    else:
        (folder / INDEX).write_text("{")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no config", "no config.json"),
        ("pickled weights alone", "pytorch_model.bin"),
        ("no weights", "neither"),
        ("an absent shard", "model-00002-of-"),
        ("a truncated shard", "model-00002-of-"),
        ("a tensor that its shard lacks", "model.ghost.weight"),
        ("a file elsewhere", "weight_map"),
        ("a broken index", "not an index"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, kind: str, words: str) -> None:
    folder = saved(tmp_path / "model", shards=True)
    spoil(folder, kind)
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_neither_a_folder_nor_reachable_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/none") as caught:
        open_checkpoint("nobody/none")
    assert "\n" not in str(caught.value)
