"""Which part of a model a module belongs to: language, vision, audio or projector.

A model of one kind of input (ViT, Whisper, LLaMA) is one part, and so adapted whole. In one of
several, what has a config or a name of its own for images or sound is a tower; what turns a tower's
output into input of the language part is a projector; the rest is language. Of two halves side by
side (CLIP, SigLIP) neither serves the other, so both are adapted unless one is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

PartName = Literal["language", "vision", "audio", "projector"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

_TOKENS = "input_ids"
_BY_NAME: tuple[tuple[PartName, re.Pattern[str]], ...] = (
    ("vision", re.compile(r"vision|visual|image|img|pixel|video", re.IGNORECASE)),
    ("audio", re.compile(r"audio|speech|acoustic|vocoder", re.IGNORECASE)),
)
# Types of towers on their own; some say nothing of their input.
_TOWER: tuple[tuple[PartName, re.Pattern[str]], ...] = (
    ("vision", re.compile(r"(^|_)(vision|image|video)(_|$)")),
    ("audio", re.compile(r"(^|_)(audio|speech)(_|$)")),
)
_PROJECTOR = re.compile(
    r"projector|connector|merger|resampler|perceiver|q_?former|aligner|^mm_proj|"
    r"^embed_(vision|audio)$|(img|image|vision|audio|glb)_(projection|adapt[eo]r)",
    re.IGNORECASE,
)
_PROJECTION = re.compile(r"projection|_proj$")  # outside towers, whose patches are projected too


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where a module stands.

    Attributes:
        outer: Config of the whole model; None above it.
        config: Config of the innermost model around the module.
        part: The part; None for a model inside that is of no kind that has a name.
        inside: Whether the part is a tower or a language model of its own, not the whole.
        single: Whether the whole model is one part.
        dual: Whether it is two halves side by side.
        numbered: Whether the path has a number, as in a list of layers.
        top: Whether the module is a model itself that is no tower or language model inside another.
    """

    outer: Any = None
    config: Any = None
    part: PartName | None = "language"
    inside: bool = False
    single: bool = True
    dual: bool = False
    numbered: bool = False
    top: bool = False

    @property
    def default(self) -> bool:
        """Whether the module is adapted where no parts are named."""
        return self.part is not None and (self.single or self.dual or self.part == "language")


def scope_of(module: nn.Module, name: str, around: Scope) -> Scope:
    """The scope of ``module``, which is the child ``name`` of a module in ``around``."""
    config = config_of(module)
    if around.outer is None:
        return around if config is None else _whole(module, config)
    if around.single:
        return around
    around = replace(around, numbered=around.numbered or name.isdigit())
    another = config is not None and config.model_type != around.config.model_type
    if config is not None and not another and name == module.base_model_prefix:
        name = ""  # the model under a head; it may be called VisualBERT or SpeechT5
    part = _part_of(module, name, config if another else None, around)
    composed = another and _is_composed(config)  # T5Gemma 2's encoder
    inside = not composed and (around.inside or another or part != around.part)
    top = config is not None and not inside
    kept = config if another else around.config
    return replace(around, config=kept, part=part, inside=inside, top=top)


def config_of(module: nn.Module) -> Any:
    """The config of a whole model; attention modules carry one too, but are no model."""
    config = getattr(module, "config", None)
    is_model = hasattr(module, "base_model_prefix") and hasattr(config, "get_text_config")
    return config if is_model else None


def _whole(module: nn.Module, config: Any) -> Scope:
    """The scope of a model that is inside no other."""
    reads = _reads(module)
    own = reads or _named(config.model_type, _TOWER)
    single = own is not None and not (_is_composed(config) and _has_language(module))
    part = own if single or reads else "language"
    prefix: Any = module.base_model_prefix
    dual = _is_dual(module) or _is_dual(getattr(module, prefix, None))
    return Scope(outer=config, config=config, part=part, single=single, dual=dual, top=True)


def _is_composed(config: Any) -> bool:
    """Whether a config holds another one for text."""
    try:
        return config.get_text_config() is not config
    except ValueError:  # it holds several, as MusicGen's does
        return True


def _is_dual(module: nn.Module | None) -> bool:
    others = ("image", "vision", "video", "audio", "speech")
    return (
        hasattr(module, "get_text_features")
        and not hasattr(module, "get_qformer_features")
        and any(hasattr(module, f"get_{kind}_features") for kind in others)
    )


def _has_language(module: nn.Module) -> bool:
    """Whether any model inside is one for text; CLIP's vision half alone has the same config."""
    inside = [child for child in module.modules() if child is not module]
    models = [(child, config) for child in inside if (config := config_of(child)) is not None]
    own = config_of(module).model_type
    return any(_is_text(child, config) for child, config in models if config.model_type != own)


def _part_of(module: nn.Module, name: str, config: Any, around: Scope) -> PartName | None:
    """The part of a child, whose own config is given where it is a model of another type."""
    part = around.part
    if part in (None, "projector"):
        return part
    in_language = around.inside and part == "language" and config is None
    if not around.numbered and not in_language and _is_projector(name, around):
        return "projector"
    if around.inside and part != "language":
        return part
    found = _named(name, _BY_NAME)
    if found is not None or config is None:
        return found or part
    if _is_text(module, config):
        return "language"
    return _reads(module) or _named(config.model_type, _BY_NAME) or _other(around)


def _other(around: Scope) -> PartName | None:
    """The part of a model inside that says of itself neither what it reads nor what it is."""
    if around.outer.get_text_config(decoder=True) is around.outer:  # BLT's parts, one kind of input
        return around.part
    return None


def _is_projector(name: str, around: Scope) -> bool:
    return bool(_PROJECTOR.search(name) or (around.top and _PROJECTION.search(name)))


def _is_text(module: nn.Module, config: Any) -> bool:
    if _reads(module) is not None or getattr(module, "main_input_name", _TOKENS) != _TOKENS:
        return False
    if _named(config.model_type, _BY_NAME) is not None:
        return False
    return _is_composed(config) or hasattr(config, "vocab_size")


def _reads(module: nn.Module) -> PartName | None:
    """The kind of a model's main input; None for tokens and anything else."""
    name = getattr(module, "main_input_name", _TOKENS)
    name = name if isinstance(name, str) else name[0]  # OneFormer has a list of them
    if name.startswith("pixel_values"):
        return "vision"
    return "audio" if name in ("input_values", "input_features") else None


def _named(name: str, patterns: Collection[tuple[PartName, re.Pattern[str]]]) -> PartName | None:
    return next((part for part, pattern in patterns if pattern.search(name)), None)
