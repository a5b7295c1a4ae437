"""`decompose` with a memory on disk: the key that an entry is filed under, and its file."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ailora import linalg
from ailora.cache import disk
from ailora.errors import MALFORMED, UserError
from ailora.files import parse_json
from ailora.linalg import Check, Triplets
from ailora.linalg.decomposition import validate
from ailora.linalg.triplets import Part, outermost

logger = logging.getLogger(__name__)

_complained: set[str] = set()

_FORMAT = 2  # version of the entries' files

_TENSORS = ("U", "S", "Vt")
_OTHER_FIELDS = tuple(f.name for f in fields(Triplets) if f.name not in (*_TENSORS, "check"))


def decompose(
    weight: Tensor, rank: int, part: Part, *, seed: int = 0, tol: float = 1e-8
) -> Triplets:
    """`ailora.linalg.decompose`, computed once for each weight of this user.

    Kept in ``<cache>/decompositions`` at the rank asked for; a later request for that rank or a
    smaller one is read from there: the first r triplets of a principal part, the last r of a minor
    part. What is read is to the bit what was stored, so the same request gets the same bits, on
    any number of threads, until its entry is evicted. Against a fresh computation it may differ
    as two solutions within `tol` do when the entry has a larger rank, or was made with other
    threads or on another device. `check` is the stored one: its seconds are of the computation,
    and for a slice its residual is that of the whole entry, an upper bound.

    The cache never fails a start: entries that are damaged are computed again and a folder that
    cannot be used is done without, each with a warning. Its size is ``AILORA_CACHE_LIMIT``.

    Args:
        weight: As for `ailora.linalg.decompose`.
        rank: Likewise.
        part: Likewise.
        seed: Likewise.
        tol: Likewise; an entry made with a smaller tol is as good, one with a larger is not used,
            and replaced if it has that rank.

    Returns:
        The triplets, on the weight's device.

    Raises:
        UserError: As `ailora.linalg.decompose`; or AILORA_CACHE_LIMIT is not a size.
    """
    validate(weight, rank, part, seed, tol)
    limit = disk.size_limit()
    folder = _usable_folder() if limit and type(weight) in (Tensor, nn.Parameter) else None
    if folder is None:  # a subclass may keep its values elsewhere than in its bytes
        return linalg.decompose(weight, rank, part, seed=seed, tol=tol)
    key = key_of(weight, part, seed=seed)
    found = _read(folder, key, weight, rank, tol)
    if found is None:
        with disk.one_at_a_time(folder, key):
            found = _read(folder, key, weight, rank, tol)
            if found is None:
                found = linalg.decompose(weight, rank, part, seed=seed, tol=tol)
                _store(folder, key, found, tol, limit)
    return found


def _read(folder: Path, key: str, weight: Tensor, rank: int, tol: float) -> Triplets | None:
    m, n = weight.shape
    for entry in disk.candidates(folder, key, rank):
        try:
            whole, made_with = read_entry(entry.path, shape=(m, n), rank=entry.rank)
        except DamagedEntryError as error:
            logger.warning("damaged cache entry %s: %s; computing it again", entry.path, error)
            disk.discard(entry)
            continue
        except OSError as error:  # deleted a moment ago, or not ours to read
            logger.debug("cannot read %s: %s", entry.path, error)
            continue
        if made_with > tol:
            logger.debug("%s was made with tol %g, not %g", entry.path, made_with, tol)
            continue
        disk.touch(entry)
        logger.debug("%s part, rank %d, from the cache: %s", whole.part, rank, entry.path)
        return _moved(outermost(whole, rank), weight.device)
    return None


def _store(folder: Path, key: str, triplets: Triplets, tol: float, limit: int) -> None:
    try:
        data = entry_bytes(triplets, tol)
        if not disk.add(folder, key, triplets.rank, data, limit=limit):
            _complain_once(f"an entry of {len(data)} bytes is above the limit", disk.LIMIT_VARIABLE)
    except (UserError, OSError) as error:
        _complain_once(str(error), str(folder))


def _moved(triplets: Triplets, device: torch.device) -> Triplets:
    if device.type in ("cpu", "mps"):  # MPS has no float64: `linalg.decompose` answers on the CPU
        return triplets
    return replace(
        triplets,
        U=triplets.U.to(device),
        S=triplets.S.to(device),
        Vt=triplets.Vt.to(device),
    )


def _usable_folder() -> Path | None:
    try:
        return disk.folder_path()
    except UserError as error:
        _complain_once(str(error), "")
        return None


def _complain_once(reason: str, about: str) -> None:
    """Warn, once per process for each cause: a model has a hundred weights."""
    if about not in _complained:
        _complained.add(about)
        logger.warning(
            "decompositions are not cached: %s (%s=0 turns the cache off)",
            reason,
            disk.LIMIT_VARIABLE,
        )


def key_of(weight: Tensor, part: Part, *, seed: int) -> str:
    """SHA-256 of the weight's bytes, dtype and shape, and of what the solver was asked for.

    SHA-256 is the quickest strong hash of the standard library where the CPU has instructions for
    it: a 4096 x 4096 bfloat16 weight takes 22 ms (BLAKE2b: 60 ms), its decomposition about 1 s.

    The solver's version and the fields of its result count; rank and tol are the entry's own, and
    device, number of threads and torch's version do not count. All of these give an answer that
    meets `tol`, and an entry made under one of them is what makes a start under another the same to
    the bit.

    Args:
        weight: (m, n), float16, bfloat16, float32 or float64, any strides, any device.
        part: which end of the spectrum.
        seed: seed of the start block.

    Returns:
        64 lower-case hex digits.
    """
    asked = {
        "format": _FORMAT,
        "solver": linalg.SOLVER_VERSION,
        "fields": [field.name for kind in (Triplets, Check) for field in fields(kind)],
        "dtype": str(weight.dtype),
        "shape": list(weight.shape),
        "part": part,
        "seed": seed,
    }
    # JSON has no NUL, so where the header ends and the weight begins is never in doubt.
    digest = hashlib.sha256(json.dumps(asked).encode() + b"\0")
    digest.update(_bytes_of(weight))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The values row by row, without a copy if they are so in CPU memory already."""
    rows = tensor.detach().cpu().resolve_neg().contiguous()
    # A dimension of size 1 may keep another stride, which a view as bytes refuses.
    return rows.as_strided((rows.numel(),), (1,)).view(torch.uint8).numpy().data


class DamagedEntryError(Exception):
    """The file is not what was written."""


def entry_bytes(triplets: Triplets, tol: float) -> bytes:
    """The triplets, their check and the tol they were made with, with a SHA-256 over all."""
    tensors = {name: getattr(triplets, name).detach().cpu().contiguous() for name in _TENSORS}
    others = {name: getattr(triplets, name) for name in _OTHER_FIELDS}
    record = json.dumps({"check": asdict(triplets.check), "tol": float(tol), **others})
    return save(tensors, metadata={"record": record, "sha256": _digest(record, tensors)})


def read_entry(path: Path, *, shape: tuple[int, int], rank: int) -> tuple[Triplets, float]:
    """The triplets and the tol that `entry_bytes` wrote, on the CPU.

    Args:
        path: The file.
        shape: (m, n) of the weight they should be of.
        rank: How many there should be.

    Raises:
        DamagedEntryError: Truncated, altered, not finite, or of another weight.
        OSError: It is not there or cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied: what safetensors gives is the file itself, mapped into memory.
            tensors = {name: file.get_tensor(name).clone() for name in _TENSORS}
    except SafetensorError as error:
        raise DamagedEntryError(str(error)) from error
    record = metadata.get("record", "")
    _check_whole(metadata.get("sha256", ""), record, tensors)
    _check_fits(tensors, shape, rank)
    try:
        others = parse_json(record)
        check, tol = Check(**others.pop("check")), float(others.pop("tol"))
        return Triplets(**tensors, check=check, **others), tol
    except MALFORMED as error:
        raise DamagedEntryError(f"its record is not one of ours: {error}") from error


def _digest(record: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in _TENSORS:
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _check_whole(expected: str, record: str, tensors: dict[str, Tensor]) -> None:
    if _digest(record, tensors) != expected:
        raise DamagedEntryError("its checksum does not match")


def _check_fits(tensors: dict[str, Tensor], shape: tuple[int, int], rank: int) -> None:
    m, n = shape
    shapes = {"U": (m, rank), "S": (rank,), "Vt": (rank, n)}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float64 or tuple(tensor.shape) != shapes[name]:
            raise DamagedEntryError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not float64 {shapes[name]}"
            )
        if not tensor.isfinite().all():
            raise DamagedEntryError(f"{name} has NaN or Inf")
