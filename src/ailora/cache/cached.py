"""`decompose` with a memory on disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ailora import linalg
from ailora.cache import entries, store
from ailora.cache.keys import key_of
from ailora.cache.limit import VARIABLE, size_limit
from ailora.cache.turns import turn
from ailora.errors import UserError
from ailora.linalg import Triplets
from ailora.linalg.triplets import Part
from ailora.linalg.validate import validate

logger = logging.getLogger(__name__)

_complained: set[str] = set()


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
        rank: As there.
        part: As there.
        seed: As there.
        tol: As there; entries made with another tol are not used.

    Returns:
        As there, on the same device.

    Raises:
        UserError: As there; or AILORA_CACHE_LIMIT is not a size.
    """
    validate(weight, rank, part, seed, tol)
    limit = size_limit()
    folder = _folder() if limit and type(weight) in (Tensor, nn.Parameter) else None
    if folder is None:  # a subclass may keep its values elsewhere than in its bytes
        return linalg.decompose(weight, rank, part, seed=seed, tol=tol)
    key = key_of(weight, part, seed=seed, tol=tol)
    found = _find(folder, key, weight, rank)
    if found is None:
        with turn(folder, key):
            found = _find(folder, key, weight, rank)
            if found is None:
                found = linalg.decompose(weight, rank, part, seed=seed, tol=tol)
                _keep(folder, key, found, limit)
    return found


def _find(folder: Path, key: str, weight: Tensor, rank: int) -> Triplets | None:
    m, n = weight.shape
    for entry in store.candidates(folder, key, rank):
        try:
            whole = entries.read(entry.path, shape=(m, n), rank=entry.rank)
        except entries.DamagedEntryError as error:
            logger.warning("damaged cache entry %s: %s; computing it again", entry.path, error)
            store.discard(entry)
            continue
        except OSError as error:  # deleted a moment ago, or not ours to read
            logger.debug("cannot read %s: %s", entry.path, error)
            continue
        store.touch(entry)
        logger.debug("%s part, rank %d, from the cache: %s", whole.part, rank, entry.path)
        return _moved(_slice(whole, rank), weight.device)
    return None


def _keep(folder: Path, key: str, triplets: Triplets, limit: int) -> None:
    try:
        data = entries.to_bytes(triplets)
        if not store.add(folder, key, triplets.rank, data, limit=limit):
            _complain_once(f"an entry of {len(data)} bytes is above the limit", VARIABLE)
    except (UserError, OSError) as error:
        _complain_once(str(error), str(folder))


def _slice(whole: Triplets, rank: int) -> Triplets:
    """The outermost `rank` triplets: largest first, so a minor part's are the last."""
    if rank == whole.rank:
        return whole
    kept = slice(None, rank) if whole.part == "principal" else slice(whole.rank - rank, None)
    return replace(
        whole,
        U=whole.U[:, kept].contiguous(),
        S=whole.S[kept].clone(),
        Vt=whole.Vt[kept].clone(),
        check=replace(whole.check, gap=_gap(whole, rank)),
    )


def _gap(whole: Triplets, rank: int) -> float | None:
    """`Check.gap` of a slice; sigma_1, which it is relative to, is only among a principal part."""
    if whole.part == "minor" or not whole.S[0] > 0:
        return None
    return float((whole.S[rank - 1] - whole.S[rank]) / whole.S[0])


def _moved(triplets: Triplets, device: torch.device) -> Triplets:
    if device.type in ("cpu", "mps"):  # MPS has no float64: `linalg.decompose` answers on the CPU
        return triplets
    return replace(
        triplets,
        U=triplets.U.to(device),
        S=triplets.S.to(device),
        Vt=triplets.Vt.to(device),
    )


def _folder() -> Path | None:
    try:
        return store.folder_path()
    except UserError as error:
        _complain_once(str(error), "")
        return None


def _complain_once(reason: str, about: str) -> None:
    """Warn, once a process for each cause: a model has a hundred weights."""
    if about not in _complained:
        _complained.add(about)
        logger.warning(
            "decompositions are not cached: %s (%s=0 turns the cache off)", reason, VARIABLE
        )
