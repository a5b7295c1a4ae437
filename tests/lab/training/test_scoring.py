"""A finished run scored again, and a base model before any tuning."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import TextTask
from ailora.lab.training import RunConfig, train
from ailora.lab.training.scoring import score, settings_in


def test_a_saved_run_scores_what_it_scored_when_it_was_trained(
    config: RunConfig, task: TextTask, tmp_path: Path
) -> None:
    for method in ("ailora", "bitfit"):
        result = train(replace(config, method=method), task, tmp_path / method)
        (folder,) = (tmp_path / method).iterdir()
        again = settings_in(folder)
        assert asdict(again) == asdict(replace(config, method=method))
        found = score(again, task, folder / "adapter")
        assert found.metrics == result["metrics"]["test"]
        lines = (folder / "predictions-test.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(found.outputs)


def test_a_new_head_is_not_scored(config: RunConfig, task: TextTask) -> None:
    with pytest.raises(UserError, match="a new head on the model"):
        score(config, task, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no run's folder"),
        ("[]", "no run's folder"),
        ('{"config": "none"}', "no run's folder"),
        (
            '{"config": {"generation": {}, "qa": {}, "colour": 1}}',
            "config.json: 'colour' is no setting",
        ),
        (
            '{"config": {"task": "/tmp/mine.py", "generation": {}, "qa": {}}}',
            "not run just because a folder names it",
        ),
    ],
)
def test_a_folder_that_is_no_run_or_names_code_is_refused(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        settings_in(tmp_path)
