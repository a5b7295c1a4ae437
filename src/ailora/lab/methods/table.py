"""All methods by name: the paper's eleven, and PEFT's other starts."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ailora.errors import UserError
from ailora.lab.methods import presets
from ailora.lab.methods.bitfit import bitfit
from ailora.lab.methods.dora import dora
from ailora.lab.methods.full import full
from ailora.lab.methods.houlsby import houlsby
from ailora.lab.methods.rslora import rslora
from ailora.lab.methods.settings import Batches, Settings
from ailora.lab.methods.starts.corda import corda
from ailora.lab.methods.starts.eva import eva
from ailora.lab.methods.starts.lora_ga import lora_ga
from ailora.lab.methods.starts.mica import mica
from ailora.lab.methods.starts.olora import olora
from ailora.lab.methods.starts.orthogonal import orthogonal
from ailora.lab.methods.vera import vera

Build = Callable[[nn.Module, Settings, Batches | None], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of a comparison.

    Attributes:
        name: As ``--method`` has it.
        label: As tables have it.
        build: Adapts a model with the task's head: ``build(model, settings, batches)``.
        sized_as: Has the same parameters but reads no weight and no data, so that they can be
            counted on the meta device; None where ``build`` itself can.
        needs_data: Whether ``build`` needs batches.
    """

    name: str
    label: str
    build: Build
    sized_as: Build | None = None
    needs_data: bool = False


_LORA = presets.lora

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="lora", label="LoRA", build=presets.lora),
        Method(name="pissa", label="PiSSA (q, v)", build=presets.pissa, sized_as=_LORA),
        Method(name="milora", label="MiLoRA (q, v)", build=presets.milora, sized_as=_LORA),
        Method(name="ailora", label="AILoRA", build=presets.ailora, sized_as=_LORA),
        Method(name="reailora", label="reAILoRA", build=presets.reailora, sized_as=_LORA),
        Method(name="full", label="Full FT", build=full),
        Method(name="houlsby", label="Adapter", build=houlsby),
        Method(name="bitfit", label="BitFit", build=bitfit),
        Method(name="dora", label="DoRA", build=dora),
        Method(name="rslora", label="rsLoRA", build=rslora),
        Method(name="vera", label="VeRA", build=vera),
        Method(name="olora", label="OLoRA", build=olora, sized_as=_LORA),
        Method(name="orthogonal", label="orthogonal", build=orthogonal),
        Method(name="eva", label="EVA", build=eva, sized_as=_LORA, needs_data=True),
        Method(name="lora_ga", label="LoRA-GA", build=lora_ga, sized_as=_LORA, needs_data=True),
        Method(name="corda", label="CorDA", build=corda, sized_as=_LORA, needs_data=True),
        Method(name="mica", label="MiCA", build=mica),
    )
}


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: There is none; the message lists them.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"method {name!r} is not known (there are {', '.join(METHODS)}){hint}")
    return METHODS[name]
