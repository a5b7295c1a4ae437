"""All methods by name, the paper's eleven first."""

from __future__ import annotations

from ailora.baselines import presets
from ailora.baselines.bitfit import bitfit
from ailora.baselines.dora import dora
from ailora.baselines.full import full
from ailora.baselines.houlsby import houlsby
from ailora.baselines.method import Method
from ailora.baselines.rslora import rslora
from ailora.baselines.starts.corda import corda
from ailora.baselines.starts.eva import eva
from ailora.baselines.starts.lora_ga import lora_ga
from ailora.baselines.starts.mica import mica
from ailora.baselines.starts.olora import olora
from ailora.baselines.starts.orthogonal import orthogonal
from ailora.baselines.vera import vera

_LORA = presets.lora

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="lora", label="LoRA", build=presets.lora),
        Method(name="pissa", label="PiSSA", build=presets.pissa, sized_as=_LORA),
        Method(name="milora", label="MiLoRA", build=presets.milora, sized_as=_LORA),
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
