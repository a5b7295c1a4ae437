"""What is known about a started adapter: in memory beside PEFT's config, on disk beside its files.

PEFT writes ``adapter_model.safetensors`` and ``adapter_config.json``: a plain LoRA for anyone.
Beside them goes ``ailora.json``, for `ailora.load_adapter` to go on training as before, and for a
folded adapter ``ailora_anchor.safetensors`` with A0 and B0, without which its base is lost.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ailora.adapters.config import AILoRAConfig, as_json
from ailora.adapters.factors import Block, cut
from ailora.adapters.fingerprints import Base
from ailora.adapters.peft_insides import from_pattern, pattern, pattern_fits
from ailora.errors import MALFORMED
from ailora.files import parse_json, read_text, require_file, usual_mode, write_atomic, write_json

logger = logging.getLogger(__name__)

FORMAT = 2
MARKER = "ailora.json"
ANCHORS = "ailora_anchor.safetensors"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."

# A cast of the file to bf16 moves a sketch by about 2^-9 of its size.
MOST_MOVED = 0.01

_ANCHORED = (
    "This adapter was started by ailora and is a plain LoRA of the untouched base model: load it "
    "with PEFT as it is. To *continue training*, load it with `ailora.load_adapter(model, dir, "
    "is_trainable=True)`; stock `is_trainable=True` would train its frozen half as well. The base "
    "is the very model it was started from: if that was a merged or otherwise changed model, keep "
    "it and load it first."
)
_FOLDED = (
    "This adapter was trained on a *residual* base (W - s B0 A0) by ailora and is wrong on the "
    "original base model. Load it with `ailora.load_adapter(model, dir)`, which makes that base "
    "first."
)
_BASE = (
    "Stock PEFT cannot notice another base model, or one that was trained since: "
    "`ailora check THIS_FOLDER MODEL` can, and `ailora.load_adapter` does."
)
_SCALES = (
    "Its modules have different {what}. Servers that read one for all of them would apply it "
    "wrongly: `ailora export` writes one."
)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A number that tells whether a matrix has moved: u^T M v with fixed u and v, and ||M||_F."""

    value: float
    norm: float

    @classmethod
    def of(cls, matrix: Tensor) -> Sketch:
        """The sketch of a matrix, or of experts' one below the other, in fp64 on the processor."""
        M = matrix.detach().flatten(0, -2).to("cpu", torch.float64)
        u, v = (
            torch.cos(1.618033988749895 * torch.arange(1, n + 1) ** 2).double() for n in M.shape
        )
        return cls(value=float(2 * u @ M @ v), norm=float(torch.linalg.norm(M)))

    def moved(self, other: Sketch) -> float:
        """How far the other matrix is, relative to the norm; an estimate, blind to some moves."""
        return abs(self.value - other.value) / self.norm if self.norm else float(other.norm > 0)


@dataclass(kw_only=True)
class Record:
    """How an adapter started.

    Attributes:
        origin: The config that it was started with, as the caller gave it.
        layers: The blocks of its factors, by the module's name.
        scaling: The scale s of its factors in memory, by the module's name. In the files all have
            one lora_alpha, see `StartedConfig.for_files`.
        anchors: A0 (``key.A``) and B0 (``key.B``) of each projection, if the adapter is folded.
        sketches: Sketches of the same matrices by the same keys, if it is anchored.
        within: <s B0 A0, W> of each projection by its key, if the adapter is folded: tells a weight
            that has its start from one that it was taken out of.
        base: What it remembers of its base model; None in files from before that was kept.
        key: The same for all configs of this start, however often they are copied.
        born: Seconds since the epoch.
    """

    origin: AILoRAConfig
    layers: Mapping[str, tuple[Block, ...]]
    scaling: Mapping[str, float]
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    sketches: Mapping[str, Sketch] = field(default_factory=dict)
    within: Mapping[str, float] = field(default_factory=dict)
    base: Base | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    born: float = field(default_factory=time.time)

    @property
    def is_folded(self) -> bool:
        """Whether its start is taken out of the base weights."""
        return bool(self.anchors)

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return copy.copy(self)  # nothing in it is ever changed

    def as_json(self) -> dict[str, Any]:
        """What the marker says."""
        return {
            "format": FORMAT,
            "ailora": version("ailora"),
            "form": "folded" if self.is_folded else "anchored",
            "config": as_json(self.origin),
            "layers": {
                name: {"scaling": self.scaling[name], "blocks": [_block(b) for b in blocks]}
                for name, blocks in self.layers.items()
            },
            "sketches": {key: asdict(sketch) for key, sketch in self.sketches.items()},
            "within": dict(self.within),
        } | ({} if self.base is None else {"base": self.base.as_json()})


def _block(block: Block) -> dict[str, Any]:
    """A block's fields; of a layer's without what only stacks of experts have."""
    stored = asdict(block)
    if block.parameter is None:  # older versions of this library read it
        del stored["parameter"], stored["experts"]
    return stored


_OF_ONE_USE = ("loading", "in_files", "keeps_scales")  # attributes that no other config inherits


class StartedConfig(LoraConfig):  # type: ignore[misc]
    """The config of an adapter that was started: a stock LoraConfig of what is in its file.

    Its JSON holds stock fields only. What it remembers goes with every copy, but not through
    ``dataclasses.replace``, with which PEFT derives configs of other adapters.
    """

    record: Record | None = None
    loading: bool = False  # for `ailora.load_adapter`: its factors come from a file
    in_files: bool = False  # made by `for_files`
    keeps_scales: bool = False  # of files to be trained on without ailora, which need the pattern

    @classmethod
    def like(cls, config: LoraConfig, record: Record) -> StartedConfig:
        """A stock config's fields, and a record."""
        made = cls(
            **{item.name: copy.copy(getattr(config, item.name)) for item in fields(LoraConfig)}
        )
        for name, value in vars(config).items():  # what PEFT keeps beside its fields
            if name not in vars(made) and name not in _OF_ONE_USE:
                setattr(made, name, value)
        made.record = record
        return made

    @classmethod
    def in_memory(cls, config: LoraConfig, record: Record) -> StartedConfig:
        """The config to train with, of one as `for_files` wrote it."""
        made = cls.like(config, record)
        alphas = {
            blocks[0].name(name): alpha_of(
                record.scaling[name], sum(b.width for b in blocks), use_rslora=made.use_rslora
            )
            for name, blocks in record.layers.items()
        }
        made.alpha_pattern = made._other_alphas() | pattern(alphas, made.lora_alpha)
        return made

    def for_files(self) -> StartedConfig:
        """The config of the files: one lora_alpha, for servers that read no ``alpha_pattern``.

        The rest of a module's scale lies in its B there, see `ratios`. A folded adapter keeps its
        pattern: it is of no use to a server before it is exported.
        """
        assert self.record is not None  # noqa: S101
        made = copy.copy(self)
        if not (self.record.is_folded or self.keeps_scales):
            made.alpha_pattern = self._other_alphas()
        made.in_files = True
        return made

    def _other_alphas(self) -> dict[str, Any]:
        """The entries of the pattern that are of no started layer (embeddings, convolutions)."""
        assert self.record is not None  # noqa: S101
        return {
            key: alpha
            for key, alpha in (self.alpha_pattern or {}).items()
            if not any(pattern_fits(key, bs[0].name(n)) for n, bs in self.record.layers.items())
        }

    def ratios(self, files: LoraConfig | None = None) -> dict[str, float]:
        """B in the files over B in memory, of the layers where that is not 1.

        Args:
            files: The config of the files; None takes that of `for_files`.
        """
        assert self.record is not None  # noqa: S101
        files = files or self.for_files()
        found = {}
        for name, blocks in self.record.layers.items():
            width = sum(block.width for block in blocks)
            alpha = from_pattern(files.alpha_pattern, blocks[0].name(name), files.lora_alpha)
            scale = alpha / (math.sqrt(width) if files.use_rslora else width)
            ratio = _snapped(self.record.scaling[name] / scale)
            if ratio != 1:
                found[name] = ratio
        return found

    def stock(self) -> LoraConfig:
        """The same without the record."""
        return LoraConfig(**{item.name: getattr(self, item.name) for item in fields(LoraConfig)})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the stock config, and how the adapter started if the files beside are of it."""
        if self.record is not None and not self.in_files and _describes(Path(save_directory)):
            # Of a script that saves the model and then its config once more.
            self.for_files().save_pretrained(save_directory, **kwargs)
            return
        ordered = copy.copy(self)  # the config in use keeps PEFT's sets
        sort_names(ordered)
        super(StartedConfig, ordered).save_pretrained(save_directory, **kwargs)
        if self.record is None:
            return
        folder = Path(save_directory)
        if (folder / WEIGHTS).is_file():
            (folder / WEIGHTS).chmod(usual_mode())  # safetensors makes the file private
        why = folder_mismatch(folder, self.record, self.ratios() if self.in_files else {})
        if why:
            logger.warning(
                "%s: %s, so these files are saved as a plain LoRA, without %s", folder, why, MARKER
            )
            for name in (MARKER, ANCHORS):
                (folder / name).unlink(missing_ok=True)
            for card in (folder / "README.md", folder.parent / "README.md"):
                unsay_start(card, self.record)
        else:
            write_record(folder, self.record)


def alpha_of(scaling: float, rank: int, *, use_rslora: bool) -> int | float:
    """lora_alpha: an integer where it is one, as PEFT has it; rounding noise removed."""
    alpha = scaling * (math.sqrt(rank) if use_rslora else rank)
    return round(alpha) if abs(alpha - round(alpha)) <= 1e-12 * abs(alpha) else alpha


def _snapped(ratio: float) -> float:
    """A power of two where it is one but for rounding: multiplying by it is exact."""
    power = 2.0 ** round(math.log2(ratio))
    return power if math.isclose(ratio, power, rel_tol=1e-12) else ratio


def _describes(folder: Path) -> bool:
    """Whether a config lies there that was written after the weights, with one lora_alpha."""
    try:
        if (folder / CONFIG).stat().st_mtime_ns < (folder / WEIGHTS).stat().st_mtime_ns:
            return False
        return not parse_json(read_text(folder / CONFIG))["alpha_pattern"]
    except (OSError, *MALFORMED):
        return False


def sort_names(config: LoraConfig) -> None:
    """Sort the names that PEFT keeps as sets: their order on disk differs from run to run."""
    for key, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, key, sorted(value))


def write_record(folder: Path, record: Record) -> None:
    """Write the marker, the anchors of a folded adapter, and the README's lines."""
    for left in folder.glob(f".{MARKER}.*.tmp"):  # by a process that was killed as it saved
        left.unlink(missing_ok=True)
    if record.anchors:
        write_atomic(folder / ANCHORS, save(dict(record.anchors), metadata={"format": "pt"}))
    else:
        (folder / ANCHORS).unlink(missing_ok=True)  # left by an earlier adapter
    write_json(folder / MARKER, record.as_json())
    say_start(folder / "README.md", record)


def say_start(readme: Path, record: Record) -> None:
    """Add to a card how the adapter started, where it does not say so yet."""
    text = read_text(readme) if readme.exists() else ""
    missing = [part for part in _lines(record) if part not in text]
    if missing:
        write_atomic(readme, "\n\n".join([text.rstrip(), *missing]) + "\n")


def unsay_start(readme: Path, record: Record) -> None:
    """Take those lines out of a card that was written for an earlier save."""
    if not readme.exists():
        return
    text = read_text(readme)
    for part in _lines(record):
        text = text.replace(f"\n\n{part}", "")
    write_atomic(readme, text)


def _lines(record: Record) -> list[str]:
    lines = [
        "## How this adapter started",
        _FOLDED if record.is_folded else _ANCHORED,
        *([] if record.base is None else [_BASE]),
        f"- `{record.origin!r}`",
    ]
    widths = {sum(block.width for block in blocks) for blocks in record.layers.values()}
    if record.is_folded and len(set(record.scaling.values())) > 1:
        lines.append(_SCALES.format(what="scales (`alpha_pattern`)"))
    if len(widths) > 1:
        lines.append(_SCALES.format(what="ranks (`rank_pattern`)"))
    return lines


def folder_mismatch(folder: Path, record: Record, ratios: Mapping[str, float]) -> str | None:
    """Why the weights in a folder are not what a record says; None if they are, or are not there.

    PEFT writes the weights just before the config. Older ones, which transformers will yet write
    over, say nothing. The ratios are those of `StartedConfig.ratios`.
    """
    path = folder / WEIGHTS
    try:
        if path.stat().st_mtime < record.born:
            return None
        require_file(path)
        with safe_open(path, framework="pt") as file:
            found = {name.removeprefix(PREFIX): name for name in file.keys()}  # noqa: SIM118
            for layer, blocks in record.layers.items():
                names = [found.get(f"{layer}.lora_{letter}.weight") for letter in "AB"]
                if None in names:
                    return f"the weights of {layer} are not in the file"
                A, B = (file.get_tensor(name) for name in names)
                why = layer_mismatch(layer, A, B / ratios.get(layer, 1), blocks, record)
                if why:
                    return why
    except (OSError, SafetensorError):
        return None
    return None


def _rounding(matrix: Tensor, anchor: Tensor) -> float:
    """What rounding to the factor's dtype may move of its anchor, relative to that.

    An anchor is a difference of what is stored: 16-bit factors that have learned much more than
    they started with round by a part of that.
    """
    size, start = (float(torch.linalg.norm(M.double())) for M in (matrix, anchor))
    return torch.finfo(matrix.dtype).eps * size / start if start else 0.0


def layer_mismatch(
    layer: str, A: Tensor, B: Tensor, blocks: Sequence[Block], record: Record
) -> str | None:
    """Why a layer's A' and B' are not those of a start's blocks; None if they are."""
    width = sum(block.width * block.experts for block in blocks)
    if A.shape[0] != width or B.shape[1] != width:
        return f"{layer} has rank {A.shape[0]} instead of {width}"
    for block, part in zip(blocks, cut(A, B, blocks), strict=True):
        for letter, matrix, anchor in (("A", part.A, part.A0), ("B", part.B, part.B0)):
            sketch = record.sketches.get(f"{block.key(layer)}.{letter}")
            if anchor is None or sketch is None or not torch.isfinite(anchor).all():
                continue
            moved = sketch.moved(Sketch.of(anchor))
            if not moved <= MOST_MOVED + _rounding(matrix, anchor):
                return (
                    f"the frozen half of {block.key(layer)} was written over or trained (it moved "
                    f"by about {moved:.0%})"
                )
    return None
