"""Each task finds its kind, and each kind fills in the contract."""

from __future__ import annotations

from dataclasses import replace
from inspect import isabstract
from typing import Any

import pytest

from ailora.lab.tasks import Task, TextTask
from ailora.lab.training import RunConfig
from ailora.lab.training.kinds import KINDS, Kind, kind_of
from ailora.lab.training.kinds.classification import Classification


class OwnTask(TextTask):
    """A task of a user's own class."""


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_kind_fills_in_the_contract(kind: type[Kind[Any]]) -> None:
    assert not isabstract(kind)
    assert kind.usual_length > 0
    assert kind.step0_rows > 0


def test_a_task_is_of_the_kind_of_its_class_or_of_the_class_above(
    config: RunConfig, task: TextTask
) -> None:
    own = OwnTask(**vars(task))
    for of in (task, own):
        found = kind_of(of, config)
        assert type(found) is Classification
        assert found.class_names == ("neg", "pos")
    assert kind_of(replace(task, labels=None), config).class_names is None


def test_a_task_of_no_known_kind_is_refused(config: RunConfig, task: TextTask) -> None:
    own = {"labels", "positive"}
    shared = {name: value for name, value in vars(task).items() if name not in own}
    with pytest.raises(TypeError, match="no kind of training for a Task"):
        kind_of(Task(**shared), config)
