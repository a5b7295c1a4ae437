"""Small questions as files hold them, and where real ones are."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

REAL = os.environ.get("AILORA_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="AILORA_DATA is not set")


def row(number: int, **other: Any) -> dict[str, Any]:
    """A question on a context of its own, in an article of its own."""
    context = f"Film {number} was shot in town{number} by Jo."
    return {
        "id": f"q{number}",
        "title": f"article {number}",
        "context": context,
        "question": f"Where was film {number} shot?",
        "answers": {"text": [f"town{number}"], "answer_start": [context.index("town")]},
        **other,
    }


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def nested(rows: Sequence[Mapping[str, Any]], *, version: str) -> dict[str, Any]:
    """The same questions in SQuAD's own structure."""
    articles = []
    for one in rows:
        texts, starts = one["answers"]["text"], one["answers"]["answer_start"]
        answers = [
            {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
        ]
        question = {"id": one["id"], "question": one["question"], "answers": answers}
        if version == "v2.0":
            question |= {"is_impossible": not answers, "plausible_answers": []}
        paragraph = {"context": one["context"], "qas": [question]}
        articles.append({"title": one["title"], "paragraphs": [paragraph]})
    return {"version": version, "data": articles}
