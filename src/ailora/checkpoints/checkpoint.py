"""A checkpoint on disk: its shards, its index, and its tensors one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ailora.checkpoints.header import Entry, Header, read_header
from ailora.errors import MALFORMED, UserError
from ailora.files import check_unchanged, parse_json, read_text

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
START_FOLDER = "ailora_start"  # in a residual model: the adapter that makes it whole again
ORIGIN = "ailora_origin.json"  # in that adapter's folder: which model it was made from

_OTHER_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken"}  # configuration and tokeniser
_HUB_PATTERNS = ["*.safetensors", "LICENSE*", *(f"*{suffix}" for suffix in sorted(_OTHER_SUFFIXES))]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's folder.

    Attributes:
        name: As the user gave it.
        folder: Path of the folder.
        shards: Headers of its weight files, in the order of their names.
        index: Content of the index; None for a single file.
    """

    name: str
    folder: Path
    shards: tuple[Header, ...] = field(repr=False)
    index: Mapping[str, Any] | None = field(repr=False)

    @cached_property
    def where(self) -> dict[str, Header]:
        """The shard of each tensor."""
        return {name: shard for shard in self.shards for name in shard.entries}

    def entry(self, tensor: str) -> Entry:
        """Type, shape and place of a tensor.

        Raises:
            UserError: There is no such tensor.
        """
        if tensor not in self.where:
            raise UserError(f"{self.folder}: holds no tensor {tensor!r}")
        return self.where[tensor].entries[tensor]

    def tensor(self, name: str) -> Tensor:
        """A tensor's values; on the CPU its pages are the file's own."""
        with opened(self.where[name].path) as file:
            value: Tensor = file.get_tensor(name)
            return value

    def check_unchanged(self) -> None:
        """Raise a UserError if a file of weights is no longer the one whose header was read."""
        for shard in self.shards:
            check_unchanged(shard.path, shard.seen)

    def other_files(self) -> list[Path]:
        """The files beside the weights: configuration, tokeniser, licence."""
        return [
            path
            for path in sorted(self.folder.iterdir())
            if path.is_file()
            and not path.name.startswith(".")
            and (path.suffix in _OTHER_SUFFIXES or path.name.startswith("LICENSE"))
            and not path.name.endswith(".index.json")
        ]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as safetensors opens it; its errors as one line."""
    try:
        whole = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:  # but what the block writes has its own words
        raise _unreadable(path, error) from error
    try:
        with whole as file:
            yield file
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error)
    if "is not valid UTF-8" in reason:  # safetensors' words about the path
        reason = "safetensors takes no name that is not UTF-8: rename it"
    return UserError(f"{path}: cannot be read ({reason}); copy it again")


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Find a model's safetensors files and read their headers.

    Args:
        name: A folder with config.json and model.safetensors or its shards and index, or a name
            on the hub, whose safetensors and configuration are downloaded to its usual cache.

    Raises:
        UserError: No such model, no config.json, no safetensors, a file that the index names is
            missing or cut off, or lacks a tensor.
    """
    folder = model_folder(name)
    single, index = folder / SINGLE, folder / INDEX
    if index.exists():
        content = _read_index(index)
        files = sorted(set(content["weight_map"].values()))
        _check_present(index, files)
        shards = tuple(read_header(folder / file) for file in files)
        _check_index(index, content["weight_map"], shards)
        return Checkpoint(name=str(name), folder=folder, shards=shards, index=content)
    if single.exists():
        return Checkpoint(name=str(name), folder=folder, shards=(read_header(single),), index=None)
    raise UserError(_no_weights(folder))


def model_folder(name: str | Path) -> Path:
    """The folder of a model, which has a config.json; from the hub if there is none of that name.

    Raises:
        UserError: There is none.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(name))
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json there; give the folder of a transformers model")
    return folder.absolute()


def as_recorded(model: str) -> str:
    """A model's name for a file: a folder by its absolute path, since files are read elsewhere."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if model and folder.is_dir() else model


def read_origin(folder: Path) -> str | None:
    """The model that an adapter's start was made from, by a file in its folder; None without."""
    try:
        return str(parse_json(read_text(folder / ORIGIN))["base_model"])
    except (OSError, *MALFORMED):
        return None


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS, ignore_patterns="*/*"))
    except (OSError, ValueError, RuntimeError) as error:  # its own errors are of these kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {name!r}: no such folder, and not from the hub ({reason}); give a folder with "
            "config.json and safetensors, or a hub name that is cached or reachable"
        ) from error


def _read_index(index: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(read_text(index))
        files = content["weight_map"].values()
        if any(not _is_file_name(file) for file in files) or not files:
            raise ValueError("its weight_map names no files of this folder")
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{index}: not an index of shards ({error}); copy it again") from error
    return content


def _is_file_name(name: str) -> bool:
    """Whether it is a file's of this folder: no path, and short enough for every system."""
    return bool(name) and Path(name).name == name and "\0" not in name and len(name.encode()) <= 255


def _check_present(index: Path, files: list[str]) -> None:
    for file in files:
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: names {file!r}, which is not there; copy it as well")


def _check_index(index: Path, weight_map: Mapping[str, str], shards: tuple[Header, ...]) -> None:
    found = {shard.path.name: shard.entries for shard in shards}
    for tensor, file in weight_map.items():
        if tensor not in found[file]:
            raise UserError(
                f"{index}: says that {tensor!r} is in {file!r}, which does not have it; "
                "copy the checkpoint again"
            )


def _no_weights(folder: Path) -> str:
    others = sorted(
        path.name for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth"}
    )
    if others:
        return (
            f"{folder}: holds {others[0]!r} but no safetensors, and pickled weights are not "
            "opened here; save the model with transformers' save_pretrained first"
        )
    return f"{folder}: holds neither {SINGLE!r} nor {INDEX!r}; give a whole checkpoint"
