"""What became of each case: as with stock LoRA, for a listed reason otherwise, or a bug."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Line = Mapping[str, Any]  # of a record, see `tests.peft_suite.plugin`

AS_STOCK, HUB, STOCK_FAILS, BUG = "as stock", "hub", "stock fails", "bug"
NO_LORA, SKIPPED = "makes no LoRA config", "skipped by PEFT's tests"
ONLINE = re.compile(
    r"couldn't connect to|LocalEntryNotFound|OfflineMode|offline mode|Can't find 'adapter_config"
    r"|not a valid model identifier|Connection error|ConnectError|ConnectionError"
)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why cases cannot hold by design.

    Attributes:
        name: A few words, under which cases are counted.
        why: The reason.
        cases: Regular expression, found in the case's id.
        error: Regular expression, found in its error; a case is excused if both are.
    """

    name: str
    why: str
    error: str
    cases: str = ""

    def fits(self, line: Line) -> bool:
        """Whether this is why the case is not as stock."""
        return bool(re.search(self.cases, line["case"]) and re.search(self.error, line["error"]))


def reasons() -> list[Reason]:
    """The list of ``by_design.toml``."""
    text = Path(__file__).with_name("by_design.toml").read_text(encoding="utf-8")
    return [Reason(**entry) for entry in tomllib.loads(text)["reason"]]


def to_run(stock: Line) -> bool:
    """Whether a case is to be run with our factors: LoRA is in it, and stock LoRA ran it."""
    return _of_stock(stock) is None


def _of_stock(stock: Line) -> str | None:
    if stock["outcome"] == "failed":
        return HUB if ONLINE.search(stock["error"]) else STOCK_FAILS
    if not stock["configs"]:
        return NO_LORA
    return SKIPPED if stock["outcome"] == "skipped" else None


def verdict(stock: Line, ours: Line | None, listed: Sequence[Reason]) -> str | None:
    """What became of a case; None if it has not been run yet."""
    why = _of_stock(stock)
    if why is not None or ours is None:
        return why
    if ours["outcome"] == stock["outcome"]:
        # An adapter that anchors nothing is stock LoRA and shows nothing.
        ours = dict(ours, error=f"{ours['bare']} adapters without an anchored layer")
        if not ours["bare"]:
            return AS_STOCK
    return next((reason.name for reason in listed if reason.fits(ours)), BUG)


def count(stock: Sequence[Line], ours: Sequence[Line]) -> tuple[dict[str, str], Counter[str]]:
    """The verdict of each case that has one, and how many have which."""
    by_case, listed = {line["case"]: line for line in ours}, reasons()
    found = {line["case"]: verdict(line, by_case.get(line["case"]), listed) for line in stock}
    known = {case: what for case, what in found.items() if what is not None}
    return known, Counter(known.values())
