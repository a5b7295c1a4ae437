"""An adapter as servers want it: a plain LoRA of the original model, of one rank, scale 1.

Its updates may be compressed to a lower rank, from their factors alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ailora.adapters.folder import AdapterFolder
from ailora.checkpoints.checkpoint import as_recorded
from ailora.checkpoints.resumable import alone_in_out, require_empty
from ailora.errors import UserError
from ailora.linalg import LowRank
from ailora.offline.plain_lora import (
    Rank,
    base_copies,
    check_rank_or_share,
    read_plain,
    without_copies,
    write_plain,
)
from ailora.offline.residual import is_residual, of_original, original_name, warn_if_moved
from ailora.offline.servers import SERVERS, check_server, limit_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One module of an exported adapter; the losses are those of `Compressed`.

    Attributes:
        name: Name of the module.
        rank_before: Rank of its update in the adapter.
        rank: Rank of what was kept; all modules are padded to the report's rank in the file.
        size: ||dW||_F.
        frobenius: See `Compressed`.
        spectral: See `Compressed`.
        tail: See `Compressed`.
    """

    name: str
    rank_before: int
    rank: int
    size: float
    frobenius: float = 0.0
    spectral: float = 0.0
    tail: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What `export_adapter` wrote.

    Attributes:
        folder: Folder of the adapter.
        rank: Rank of all its modules.
        base: The model that it is for; empty if its files did not say.
        modules: One row per module.
    """

    folder: Path
    rank: int
    base: str
    modules: tuple[Exported, ...]

    @property
    def lost(self) -> float:
        """||dW - dW_R||_F / ||dW||_F of all modules together."""
        whole = sum(one.size**2 for one in self.modules)
        off = sum((one.frobenius * one.size) ** 2 for one in self.modules)
        return (off / whole) ** 0.5 if whole else 0.0


@alone_in_out
def export_adapter(
    adapter: Path,
    out: Path,
    *,
    rank: Rank | None = None,
    folded_base: bool = False,
    start: Path | None = None,
    base: str | None = None,
    server: str | None = None,
) -> ExportReport:
    """Write any stock LoRA adapter as a plain one: one rank, alpha = r, no patterns, no rsLoRA.

    Args:
        adapter: Folder of an adapter that PEFT or ailora saved.
        out: A new or empty folder.
        rank: Compress to this rank (QR and a small SVD), or, if it is between 0 and 1, to as much
            rank as each module needs to keep this share of ||dW||_F^2; None keeps every update
            exact, up to one rounding of s B to fp32 where the scale is no power of two.
        folded_base: The adapter was trained on a residual model (``ailora init``, or
            ``anchored=False``): write what it adds to the original model.
        start: With ``folded_base``, the adapter that training began from, where it is not found.
        base: The model that the exported adapter is for, to be recorded; None takes what the
            adapter's files say.
        server: A name in `ailora.offline.servers.SERVERS`: refuse what it cannot read.

    Raises:
        UserError: no such adapter, one that is more than a low-rank sum, or of a residual model
            without ``folded_base``; the folder is not empty or cannot be written; the original of
            a residual model is not known; the server would refuse it.
    """
    require_empty(out)
    read = read_plain(adapter)
    if not folded_base:
        refuse_residual(read)
    plain, modules = plain_updates(read, rank, folded_base, start, base)
    name = as_recorded(base or _base_of(read, folded_base, start))
    if server is not None:
        plain = without_copies(plain)
        check_server(server, plain, max(one.rank for one in modules))
    width = write_plain(plain, out, name)
    warn_if_moved(read)
    if server is None:
        _warn(plain, width)
    return ExportReport(folder=out, rank=width, base=name, modules=modules)


def _base_of(adapter: AdapterFolder, folded_base: bool, start: Path | None) -> str:
    if not folded_base:
        return adapter.base
    name = original_name(adapter, start)
    if name is None:
        raise UserError(
            f"{adapter.folder}: was trained on a residual model, and nothing says of which "
            f"original ({adapter.base!r}, which it names, is not there); give --base the original"
        )
    return name


def plain_updates(
    adapter: AdapterFolder,
    rank: Rank | None,
    folded_base: bool,
    start: Path | None,
    original: str | Path | None,
) -> tuple[AdapterFolder, tuple[Exported, ...]]:
    """The adapter with what it adds to the original model, compressed if a rank is given."""
    if start is not None and not folded_base:
        raise UserError("--start is of use with --folded-base only; add it, or leave --start out")
    if rank is not None:
        check_rank_or_share(rank)
    if folded_base:
        adapter = of_original(adapter, start, original)
    updates: dict[str, LowRank] = {}
    modules = []
    for name, update in adapter.updates.items():
        small = compress(update, rank or update.rank)
        updates[name] = small.update
        modules.append(
            Exported(
                name=name,
                rank_before=update.rank,
                rank=small.update.rank,
                size=float(update.norm()),
                frobenius=small.frobenius,
                spectral=small.spectral,
                tail=small.tail,
            )
        )
    return replace(adapter, updates=updates), tuple(modules)


def refuse_residual(adapter: AdapterFolder) -> None:
    """Raise a ``UserError`` for an adapter that is wrong on the original model."""
    if is_residual(adapter):
        raise UserError(
            f"{adapter.folder}: was trained on a residual model ({adapter.base!r}) and is wrong on "
            "the original; add --folded-base to convert it"
        )


def _warn(adapter: AdapterFolder, rank: int) -> None:
    default = SERVERS["vllm"].default
    if default is not None and rank > default:
        logger.warning(
            "rank %d is above %d, vLLM's default limit: start it with --max-lora-rank %d, or "
            "export with --rank %d",
            rank,
            default,
            limit_for("vllm", rank),
            default,
        )
    whole = adapter.whole.keys() - base_copies(adapter)
    if whole:
        logger.warning(
            "%d tensors stored in full (%s, ...) are carried along: PEFT loads them, vLLM refuses "
            "such an adapter; --merge makes a model of it",
            len(whole),
            min(whole),
        )


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """An update of lower rank, and what was lost of dW = s B A.

    Attributes:
        update: The update, scale 1, fp32 factors of equal norm.
        frobenius: ||dW - dW_R||_F / ||dW||_F.
        spectral: ||dW - dW_R||_2 / ||dW||_2.
        tail: Share of the energy cut off, sum of sigma_i^2 beyond R over the sum of all.
    """

    update: LowRank = field(repr=False)
    frobenius: float
    spectral: float
    tail: float


def compress(update: LowRank, rank: Rank) -> Compressed:
    """The closest update of rank ``rank``: two thin QRs and the SVD of a k x k matrix, in fp64.

    By Eckart, Young and Mirsky no other of that rank is closer in either norm. dW itself is never
    built. A rank at or above the update's own changes nothing. Between 0 and 1 it is the share of
    ||dW||_F^2 to be kept, by the smallest rank that does.

    Raises:
        UserError: ``rank`` is below 1 and no share.
    """
    check_rank_or_share(rank)
    if rank >= update.rank:
        return Compressed(update=update, frobenius=0.0, spectral=0.0, tail=0.0)
    A, B = update.exact()
    left, right = torch.linalg.qr(B), torch.linalg.qr(A.T)
    U, S, Vt = torch.linalg.svd(left.R @ right.R.T)
    energy = S.square()
    if isinstance(rank, float):
        beyond = energy.flip(0).cumsum(0).flip(0)  # of each value and all smaller ones
        rank = max(1, int((beyond > (1 - rank) * beyond[0]).sum()))
    root = S[:rank].sqrt()
    smaller = LowRank(
        A=(root[:, None] * (Vt[:rank] @ right.Q.T)).float(),
        B=(left.Q @ U[:, :rank] * root).float(),
    )
    tail = float(energy[rank:].sum() / energy.sum()) if energy.any() else 0.0
    spectral = float(S[rank] / S[0]) if S[0] and rank < len(S) else 0.0
    return Compressed(update=smaller, frobenius=tail**0.5, spectral=spectral, tail=tail)
