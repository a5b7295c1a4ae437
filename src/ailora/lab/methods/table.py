"""All methods by name, one row each: the paper's eleven, and PEFT's other starts.

A new method is a row here and a file of its name with a function of its name, which is imported
when the method is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ailora.errors import UserError, instead

if TYPE_CHECKING:
    from torch import nn

    from ailora.lab.settings import RunConfig

# A few collated training batches, with labels, for starts that look at data; made anew each call.
Batches = Callable[[], Iterable[Mapping[str, Any]]]
Build = Callable[["nn.Module", "RunConfig", "Batches | None"], Any]


class Look(NamedTuple):
    """Colour, line and marker in every figure; any two methods differ in two of them."""

    color: str
    line: str | tuple[int, tuple[int, ...]]
    marker: str | int


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of a comparison.

    Attributes:
        name: Name, as ``--method`` takes it.
        label: Name in tables and figures.
        note: What it starts from or trains, in one line.
        look: Look in figures.
        file: Module of this folder that has the function ``name``; by default it has that name
            too.
        sized_as: Name of a method with the same parameters that reads no weight and no data, so
            that they can be counted on the meta device; empty where ``build`` itself can.
        needs_data: Whether ``build`` needs batches.
        controls: The settings of `ailora.lab.methods.variants` that it can have.
        own: Values of those that it has anyway.
    """

    name: str
    label: str
    note: str
    look: Look
    file: str = ""
    sized_as: str = ""
    needs_data: bool = False
    controls: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def build(self) -> Build:
        """Adapts a model with the task's head: ``build(model, config, batches)``."""
        module = import_module(f"ailora.lab.methods.{self.file or self.name}")
        return cast(Build, getattr(module, self.name))


_PLUS = ("loraplus_lr_ratio",)
_RATES = ("lr_ratio", *_PLUS)
_ALL = ("directions", "scale", *_RATES)
_ONE_RATE = {"lr_ratio": 1.0}
_AS_LORA = {"lr_ratio": 1.0, "scale": "matched"}  # the size that "matched" matches
_TWICE = {"lr_ratio": 2.0}

# Colours are Okabe and Ito's palette, told apart by people who see colours differently; methods of
# one colour differ in line and marker.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="lora",
            label="LoRA",
            note="a Gaussian A and a zero B on q and v, one rate (Hu et al. 2021)",
            look=Look("#666666", "-", "o"),
            file="lora_family",
            controls=_RATES,
            own=_AS_LORA,
        ),
        Method(
            name="pissa",
            label="PiSSA (q, v)",
            note="the principal parts of q and v, one rate (Meng et al. 2024)",
            look=Look("#E69F00", "--", "s"),
            file="lora_family",
            sized_as="lora",
            controls=_ALL,
            own=_ONE_RATE,
        ),
        Method(
            name="milora",
            label="MiLoRA (q, v)",
            note="the minor parts of q and v, one rate (Wang et al. 2024)",
            look=Look("#009E73", "-.", "^"),
            file="lora_family",
            sized_as="lora",
            controls=_ALL,
            own=_ONE_RATE,
        ),
        Method(
            name="ailora",
            label="AILoRA",
            note="the principal part of q, the minor part of v, and twice the rate for v",
            look=Look("#0072B2", "-", "D"),
            file="lora_family",
            sized_as="lora",
            controls=_ALL,
            own=_TWICE,
        ),
        Method(
            name="reailora",
            label="reAILoRA",
            note="the reverse of AILoRA: q minor, v principal, and twice the rate for v",
            look=Look("#CC79A7", ":", "v"),
            file="lora_family",
            sized_as="lora",
            controls=_ALL,
            own=_TWICE,
        ),
        Method(
            name="full",
            label="full fine-tuning",
            note="every parameter learns",
            look=Look("#000000", "--", "*"),
        ),
        Method(
            name="houlsby",
            label="adapters (Houlsby)",
            note="two small modules in each layer (Houlsby et al. 2019)",
            look=Look("#56B4E9", "--", "P"),
        ),
        Method(
            name="bitfit",
            label="BitFit",
            note="bias terms alone (Ben Zaken et al. 2022)",
            look=Look("#D55E00", "-", "X"),
        ),
        Method(
            name="dora",
            label="DoRA",
            note="LoRA of a weight's directions, with learned norms (Liu et al. 2024)",
            look=Look("#009E73", ":", "<"),
            file="lora_family",
            controls=_RATES,
            own=_AS_LORA,
        ),
        Method(
            name="rslora",
            label="rsLoRA",
            note="LoRA with the scale alpha / sqrt(rank) (Kalajdzievski 2023)",
            look=Look("#E69F00", "-.", ">"),
            file="lora_family",
            controls=_RATES,
            own=_AS_LORA,
        ),
        Method(
            name="vera",
            label="VeRA",
            note="learned scales of one random pair of matrices (Kopiczko et al. 2023)",
            look=Look("#CC79A7", "--", "h"),
        ),
        Method(
            name="olora",
            label="OLoRA",
            note="an orthonormal B and A from W = Q R (Büyükakyüz 2024)",
            look=Look("#D55E00", "--", "d"),
            sized_as="lora",
            controls=_RATES,
            own=_ONE_RATE,
        ),
        Method(
            name="orthogonal",
            label="orthogonal",
            note="random A and B with B A = 0, neither of them zero (PEFT's)",
            look=Look("#56B4E9", ":", "p"),
            controls=_PLUS,
        ),
        Method(
            name="eva",
            label="EVA",
            note="A from what the layers' inputs vary in, a zero B (Paischer et al. 2024)",
            look=Look("#0072B2", ":", "1"),
            sized_as="lora",
            needs_data=True,
            controls=_PLUS,
        ),
        Method(
            name="lora_ga",
            label="LoRA-GA",
            note="factors from the first gradient of full fine-tuning (Wang et al. 2024)",
            look=Look("#000000", "-.", "2"),
            sized_as="lora",
            needs_data=True,
            controls=_RATES,
            own=_ONE_RATE,
        ),
        Method(
            name="corda",
            label="CorDA",
            note="parts of W weighted by the covariance of its inputs (Yang et al. 2024)",
            look=Look("#666666", ":", "3"),
            sized_as="lora",
            needs_data=True,
            controls=_RATES,
            own=_ONE_RATE,
        ),
        Method(
            name="mica",
            label="MiCA",
            note="B frozen at minor left singular vectors, A from zero (arXiv 2604.01694)",
            look=Look("#D55E00", "-.", "4"),
        ),
    )
}

# Those that differ in their start alone: what a comparison takes by default.
STARTS = ("lora", "pissa", "milora", "ailora", "reailora")


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: There is none; the message lists them.
    """
    if name not in METHODS:
        raise UserError(f"no method is called {name!r}: {instead(name, METHODS)}")
    return METHODS[name]
