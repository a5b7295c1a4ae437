"""Methods with settings of their own: how they are written, named, drawn and refused."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any

import pytest
from matplotlib.lines import Line2D

from ailora.errors import UserError
from ailora.lab.methods.table import METHODS
from ailora.lab.methods.variants import (
    checked,
    label_of,
    look_of,
    note_of,
    order_of,
    read_variant,
    variant_of,
)
from ailora.lab.settings import RunConfig

# What a comparison needs to tell the start, its size and the rate apart.
CONTROLS = {
    "lora:lr_ratio=2": "V at 2x",
    "ailora:lr_ratio=1": "one rate",
    "reailora:lr_ratio=1": "one rate",
    "pissa:lr_ratio=2": "V at 2x",
    "milora:lr_ratio=2": "V at 2x",
    "pissa:directions=random": "random directions",
    "pissa:directions=random:scale=unit": "random directions, unit size",
    "pissa:directions=random:scale=matched": "random directions, matched size",
    "pissa:scale=unit": "unit size",
    "pissa:scale=matched": "matched size",
    "milora:scale=unit": "unit size",
    "milora:scale=matched": "matched size",
    "milora:scale=0.5": "0.5x size",
    "ailora:scale=matched:lr_ratio=1": "matched size, one rate",
    "lora:loraplus_lr_ratio=4": "B at 4x",
    "eva:loraplus_lr_ratio=4": "B at 4x",
}


@pytest.mark.parametrize("text", CONTROLS)
def test_a_variant_is_written_named_and_read_in_one_way(text: str) -> None:
    config = checked(RunConfig(**read_variant(text)))
    assert variant_of(asdict(config)) == text
    method = METHODS[text.partition(":")[0]]
    assert label_of(text) == f"{method.label}, {CONTROLS[text]}"
    assert note_of(text) == f"{method.note}; {CONTROLS[text]}"


def test_settings_in_any_order_are_one_variant() -> None:
    one, other = (
        RunConfig(**read_variant(text))
        for text in ("ailora:lr_ratio=1:scale=unit", " ailora : scale = unit : lr_ratio = 1.0 ")
    )
    assert one == other


@pytest.mark.parametrize("text", ["ailora:lr_ratio=2", "lora:scale=matched", "pissa:scale=sigma"])
def test_what_a_method_does_anyway_makes_no_other_run(text: str) -> None:
    given = RunConfig(**read_variant(text))
    plain = RunConfig(method=given.method)
    assert checked(given) == plain
    assert variant_of(asdict(given)) == given.method
    assert checked(given).identity("rows") == plain.identity("rows")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("liora:scale=unit", "no method is called 'liora'"),
        ("pissa:scal=unit", "'scal' is no setting; did you mean 'scale'"),
        ("pissa:rank=8", "'rank' is no setting"),
        ("pissa:unit", "'unit' is no setting with a value; write method:setting=value"),
        ("pissa:scale=unit:scale=sigma", "has scale twice"),
        ("pissa:scale=huge", "scale 'huge': must be sigma or unit or matched or a number above 0"),
        ("pissa:scale=0", "must be sigma or unit or matched or a number above 0"),
        ("pissa:lr_ratio=nan", "lr_ratio nan: must be a number"),
        ("pissa:directions=west", "directions 'west': must be own or random"),
    ],
)
def test_what_is_no_variant_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        read_variant(text)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lora", "scale": "unit"}, "scale='unit' is not for method 'lora'"),
        ({"method": "full", "lr_ratio": 2.0}, "lr_ratio=2.0 is not for method 'full'"),
        ({"method": "mica", "loraplus_lr_ratio": 4}, "loraplus_lr_ratio=4.0 is not for"),
        ({"method": "olora", "directions": "random"}, "the methods that have it are pissa"),
        ({"method": "lora", "lr_ratio": 2.0, "ranks": {"q": 8}}, "give v a rank"),
    ],
)
def test_a_method_without_such_a_start_or_rate_is_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as error:
        checked(RunConfig(**settings))
    assert words in str(error.value)


def test_variants_stand_behind_their_method_and_strangers_last() -> None:
    given = ["else", "ailora", "lora:lr_ratio=2", "pissa", "lora"]
    assert sorted(given, key=order_of) == ["lora", "lora:lr_ratio=2", "pissa", "ailora", "else"]


def test_a_stranger_has_its_own_name_and_no_look() -> None:
    assert label_of("mine:x=1") == "mine:x=1"
    assert not note_of("mine:x=1")
    assert look_of("mine:x=1") is None


def test_a_variant_looks_like_no_other_and_matplotlib_draws_it() -> None:
    looks = {text: look_of(text) for text in (*METHODS, *CONTROLS)}
    for (one, a), (other, b) in itertools.combinations(looks.items(), 2):
        assert a is not None, one
        assert b is not None, other
        assert a != b, (one, other)
        if a.color == b.color:
            assert a.marker != b.marker, (one, other)
    for text, look in looks.items():
        assert look is not None, text
        Line2D([0], [0], color=look.color, linestyle=look.line, marker=look.marker)
