"""How far Adam's first step moves the adapted weights from each start, from the weights alone.

An entry moves by about the rate in Adam's first step. So s B A, with s = alpha / r, moves by about
lr s (m |A0|^2 + n |B0|^2)^1/2 in Frobenius norm: in a spectral start by its singular values, in
LoRA's, where B0 is zero, by lr s (m r / 3)^1/2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from ailora import AILoRAConfig
from ailora.adapters.selection import Chosen, Selection, select
from ailora.adapters.starting_factors import make_factors
from ailora.adapters.starts import Factors
from ailora.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FirstStep:
    """||dW|| of Adam's first step, divided by the learning rate.

    Attributes:
        layers: By the name of each adapted projection, with its role's ``lr_ratio``.
    """

    layers: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of all layers together: the root of the sum of their squares."""
        return math.hypot(*self.layers.values())


def first_step(model: nn.Module, config: AILoRAConfig) -> FirstStep:
    """The size of Adam's first step from a config's starts; the model is only read.

    It is what every entry of A and B moving by exactly the rate, with independent signs, would
    give in the mean; the real step differs from it by up to a tenth.

    Args:
        model: The base model, without an adapter.
        config: What would be adapted, and how it would start.

    Raises:
        UserError: As `ailora.get_peft_model`; modules that are no linear layers are selected.
    """
    selection = select(model, config)
    if selection.others or selection.parameters:
        name = next(iter((*selection.others, *selection.parameters)))
        raise UserError(
            f"{name} is no linear layer: the size of its first step is not known; leave it out"
        )
    spectral = _spectral(selection)
    made = make_factors(spectral) if spectral.layers else {}
    return FirstStep(layers={one.projection.key: _length(one, made) for one in selection.chosen})


def _spectral(selection: Selection) -> Selection:
    layers = {
        name: [one for one in layer if one.is_spectral] for name, layer in selection.layers.items()
    }
    return replace(selection, layers={name: layer for name, layer in layers.items() if layer})


def _length(one: Chosen, made: Mapping[str, Factors]) -> float:
    m, n = one.projection.shape
    if one.is_spectral:
        factors = made[one.projection.key]
        A, B = (float(x.double().square().sum()) for x in (factors.A, factors.B))
    else:  # in the mean over draws; a baked-in ratio c divides A by c
        A, B = one.rank / 3 / one.baked**2, 0.0
    return one.lr_ratio * one.scaling * math.sqrt(m * A + n * B)
