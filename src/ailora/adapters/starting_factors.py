"""The factors that what was selected starts from, made one weight after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from ailora.adapters import experts
from ailora.adapters.selection import Chosen, Selection
from ailora.adapters.starts import STARTS, Factors, Wanted, check_rank_fits
from ailora.errors import UserError
from ailora.roles.experts import ExpertProjection

logger = logging.getLogger(__name__)

OnWeight = Callable[[int, int, str], None]
"""Called with the weights done, their number, and the name of the next one ("" at the end)."""


def make_factors(selection: Selection, on_progress: OnWeight | None = None) -> dict[str, Factors]:
    """The starting factors of every chosen projection, by its key; the model is only read.

    A progress bar with the time left appears when this takes more than two seconds, unless
    `on_progress` shows it: it is called with the weights done, their number, and the next one's
    name ("" at the end).

    Raises:
        UserError: a start that can only be given, a rank above a weight's size, a weight with NaN
            or Inf, or without values (meta device).
    """
    check_startable(selection)
    chosen = selection.chosen
    found = {one.projection.key: _make(one) for one in _reported(chosen, on_progress)}
    _report_dead(chosen, found)
    return found


def check_startable(selection: Selection) -> None:
    """Refuse what no weight's values could change, before the first is decomposed.

    Raises:
        UserError: a start that can only be given, or a rank above a weight's size.
    """
    for one in selection.chosen:
        if STARTS[one.role.init].make is None:
            raise UserError(
                f"Role.init={one.role.init!r}: only saved adapters have it; to start one so, call "
                f"ailora.lab.methods.METHODS[{one.role.init!r}].build(model, settings, batches)"
            )
        if one.is_spectral:
            check_rank_fits(one.projection, one.rank)


def _make(one: Chosen) -> Factors:
    projection, make = one.projection, STARTS[one.role.init].make
    assert make is not None  # noqa: S101
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if one.is_spectral and not several and not one.is_of_parameter:
        # With several, rank 0 alone needs the values; those of parameters are looked at before.
        check_values(projection.module, projection.name)
    try:
        if isinstance(projection, ExpertProjection):
            made = experts.make_stack(projection, one.role.init, _wanted(one))
        else:
            made = make(projection, _wanted(one))
    except UserError as error:
        if projection.key in str(error):
            raise
        raise UserError(f"{projection.key} ({projection.role}): {error}") from error
    if one.baked == 1:
        return made
    return Factors(A=made.A / one.baked, B=made.B / one.baked, dead=made.dead, check=made.check)


def _wanted(one: Chosen) -> Wanted:
    scaling = one.scaling / one.baked**2
    return Wanted(rank=one.rank, scaling=scaling, scale=one.role.scale, tol=one.tol)


def check_values(module: nn.Module, name: str) -> None:
    """Raise a UserError if a layer's weight has no values in it."""
    weight = module.weight
    if not (isinstance(weight, Tensor) and weight.is_meta):
        return
    if hasattr(module, "_hf_hook"):
        raise UserError(
            f"accelerate keeps the weight of {name} elsewhere until it is needed (cpu_offload, "
            "disk_offload, a device_map): add the adapter first, and offload the model then"
        )
    raise UserError(
        f"{name} is on the meta device and has no values: load the model's weights first"
    )


def _reported(chosen: list[Chosen], on_progress: OnWeight | None) -> Iterator[Chosen]:
    if on_progress is None:
        yield from tqdm(
            chosen, "starting factors", unit="weight", delay=2, leave=False, disable=None
        )
        return
    for done, one in enumerate(chosen):
        on_progress(done, len(chosen), one.projection.key)
        yield one
    on_progress(len(chosen), len(chosen), "")


def _report_dead(chosen: Sequence[Chosen], found: dict[str, Factors]) -> None:
    dead = [(one, found[one.projection.key].dead) for one in chosen]
    dead = [(one, count) for one, count in dead if count]
    if dead:
        listed = ", ".join(f"{one.projection.key} {count} of {one.rank}" for one, count in dead[:8])
        more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
        logger.warning(
            "dead triplets: the weight has singular values of zero there, so these factors start "
            "at zero and never learn: %s%s. A smaller r or init='gaussian' avoids it.",
            listed,
            more,
        )
