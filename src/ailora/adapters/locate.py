"""Where a saved adapter lies: a folder, a folder below it, or a repository on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from ailora.adapters.record import ANCHORS, CONFIG, MARKER, WEIGHTS
from ailora.errors import UserError

_FILES = (CONFIG, WEIGHTS, MARKER, ANCHORS, "README.md")  # no pickle is even downloaded


def locate(
    name: str | os.PathLike[str],
    *,
    adapter_name: str = "default",
    subfolder: str | None = None,
    revision: str | None = None,
) -> Path:
    """The folder of a saved adapter.

    ``save_pretrained`` writes adapters that are not called "default" into folders of their names:
    of the folder above, the one called ``adapter_name`` is meant, or the only one there is.

    Args:
        name: A folder, or as a string the name of a repository on the hub, of which the adapter's
            files are downloaded to the hub's usual cache.
        adapter_name: Which of several.
        subfolder: Folder below it, as in PEFT.
        revision: Branch, tag or commit on the hub.

    Raises:
        UserError: there is none, it cannot be had from the hub, or it is not clear which is meant.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(
                f"revision={revision!r} is of a repository on the hub, and {path} is a folder; "
                "leave it out"
            )
        top = path
    elif _may_be_on_hub(name):
        top = _download(str(name), subfolder, revision, [subfolder or ""])
    else:
        raise UserError(
            f"{path}: there is no such folder; give the folder of a saved adapter, or its name on "
            "the hub"
        )
    folder = top / subfolder if subfolder else top
    if (folder / CONFIG).is_file():
        return _with_weights(folder, name, on_hub=not path.is_dir())
    if not path.is_dir():
        _download(str(name), subfolder, revision, [f"{subfolder}/*" if subfolder else "*"], CONFIG)
    below = _below(folder, adapter_name, subfolder)
    if below is None:
        raise UserError(f"{folder}: no {CONFIG} there; give the folder of a saved adapter")
    if not path.is_dir():
        inside = f"{subfolder}/{below.name}" if subfolder else below.name
        _download(str(name), subfolder, revision, [inside])
    return _with_weights(below, name, on_hub=not path.is_dir())


def _below(folder: Path, adapter_name: str, subfolder: str | None) -> Path | None:
    """The adapter in a folder below; None if there is none."""
    inside = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}
    if not inside:
        return None
    if adapter_name in inside:
        return inside[adapter_name]
    if len(inside) > 1:
        first = f"{subfolder}/{min(inside)}" if subfolder else min(inside)
        raise UserError(
            f"{folder}: the adapters {', '.join(inside)} lie in folders below it; say which, such "
            f"as subfolder={first!r}"
        )
    return next(iter(inside.values()))


def _may_be_on_hub(name: str | os.PathLike[str]) -> bool:
    return isinstance(name, str) and not name.startswith((".", "/", "~")) and name.count("/") < 2


def _download(
    name: str, subfolder: str | None, revision: str | None, folders: list[str], *files: str
) -> Path:
    """The snapshot's folder, with these files of these folders in it if the repository has them."""
    patterns = [
        f"{place}/{file}" if place else file for place in folders for file in files or _FILES
    ]
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            # huggingface_hub 1.33 asks the hub for the files of a cached commit, even offline.
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    except (OSError, ValueError, RuntimeError) as error:  # its own errors are of these kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "".join(
            f", {what}={value!r}"
            for what, value in (("subfolder", subfolder), ("revision", revision))
            if value
        )
        raise UserError(
            f"adapter {name!r}{where}: no such folder, and not from the hub ({reason}); give the "
            "folder of a saved adapter, or a hub name that is cached or reachable"
        ) from error
    return Path(found)


def _with_weights(folder: Path, name: str | os.PathLike[str], *, on_hub: bool) -> Path:
    """The folder. Raises a UserError for a repository that has a config alone."""
    if on_hub and not any((folder / file).is_file() for file in (WEIGHTS, "adapter_model.bin")):
        raise UserError(
            f"adapter {str(name)!r}: has no {WEIGHTS}; if it has adapter_model.bin instead, that "
            "is a pickle, which is never loaded: where you trust it, load it with "
            "peft.PeftModel.from_pretrained and save it again with save_pretrained"
        )
    return folder
