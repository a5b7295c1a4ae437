"""The embedded task: what is in it, and that its splits share nothing."""

from __future__ import annotations

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import TextTask, load_movies, load_task


@pytest.fixture(scope="module")
def movies() -> TextTask:
    return load_movies()


def keys(task: TextTask) -> list[set[str]]:
    splits = (task.train, task.selection, task.test)
    return [{" ".join(text.casefold().split()) for text in split["text"]} for split in splits]


def test_the_sizes_and_labels_are_those_documented(movies: TextTask) -> None:
    assert (movies.selection.num_rows, movies.test.num_rows) == (1000, 2000)
    dropped = 10_605 - sum(map(len, keys(movies)))
    assert dropped == 39
    assert movies.notes == (
        "2 rows dropped that repeat an earlier text",
        "37 rows dropped whose mean rating is exactly 0",
    )
    assert movies.labels == ("negative", "positive")
    assert movies.metrics[0] == "accuracy"


def test_no_text_is_in_two_splits_however_it_is_written(movies: TextTask) -> None:
    train, selection, test = keys(movies)
    assert not train & selection
    assert not train & test
    assert not selection & test
    assert len(train) == movies.train.num_rows


def test_the_classes_are_balanced_alike_in_every_split(movies: TextTask) -> None:
    shares = [
        sum(split["label"][:]) / split.num_rows
        for split in (movies.train, movies.selection, movies.test)
    ]
    assert max(shares) - min(shares) < 0.001
    assert 0.45 < shares[0] < 0.55


def test_labels_say_what_the_sentences_say(movies: TextTask) -> None:
    def share(word: str) -> float:
        rows = zip(movies.train["text"][:], movies.train["label"][:], strict=True)
        labels = [label for text, label in rows if word in text.lower().split()]
        return sum(labels) / len(labels)

    assert share("brilliant") > 0.7
    assert share("dull") < 0.3


def test_a_limit_leaves_the_evaluation_splits_as_they_are(movies: TextTask) -> None:
    some = load_task("movies", limit=1000)
    assert some.train.num_rows == 1000
    assert keys(some)[1:] == keys(movies)[1:]
    assert some.fingerprint != movies.fingerprint


def test_the_same_seed_gives_the_same_fingerprint_and_another_seed_another(
    movies: TextTask,
) -> None:
    assert load_movies().fingerprint == movies.fingerprint
    assert load_movies(split_seed=1).fingerprint != movies.fingerprint


def test_regression_keeps_the_rating_and_the_neutral_rows() -> None:
    task = load_task("movies-regression", limit=500)
    assert task.is_regression
    assert task.name == "movies-regression"
    assert task.metrics == ("pearson", "spearman")
    everything = task.selection["label"][:] + task.test["label"][:]
    assert min(everything) < -2.5
    assert max(everything) > 2.5
    assert 0.0 in everything
    assert load_task("movies", regression=True, limit=500).fingerprint == task.fingerprint


def test_an_embedded_task_refuses_files_and_foreign_metrics() -> None:
    with pytest.raises(UserError, match="'movies' takes no dev, text"):
        load_task("movies", dev="dev.csv", text=["x"])
    with pytest.raises(UserError, match="'pearson'"):
        load_task("movies", metrics=["pearson"])
