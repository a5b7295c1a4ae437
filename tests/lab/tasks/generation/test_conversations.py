"""Conversations of your own: three shapes become the same turns, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ailora.errors import UserError
from ailora.lab.tasks import ChatTask, GenerationTask, load_conversations, load_task

SYSTEM = {"role": "system", "content": "You count."}


def turns(n: int, *, system: bool = True) -> list[dict[str, str]]:
    return [
        *([SYSTEM] if system else []),
        {"role": "user", "content": f"After {n}?"},
        {"role": "assistant", "content": f"It is {n + 1}."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": f"Then {n + 2}."},
    ]


def sharegpt(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def shapes(n: int) -> dict[str, dict[str, Any]]:
    whole = turns(n)
    return {
        "messages": {"messages": whole},
        "conversations": {"conversations": sharegpt(whole)},
        "system": {"conversations": sharegpt(whole[1:]), "system": "You count.", "id": n},
        "prompt": {"prompt": whole[:4], "completion": whole[4:]},
    }


@pytest.mark.parametrize("shape", ["messages", "conversations", "system", "prompt"])
def test_each_shape_gives_the_same_turns(tmp_path: Path, shape: str) -> None:
    path = write(tmp_path / "chat.jsonl", [shapes(n)[shape] for n in range(20)])
    task = load_task(path)
    assert isinstance(task, ChatTask)
    assert task.metrics == ("rougeL", "exact")
    assert task.chat_template is None
    assert (len(task.train), len(task.selection), len(task.test)) == (16, 2, 2)
    for row in (*task.train, *task.selection, *task.test):
        n = int(row["target"].split()[1][:-1]) - 2
        assert row["messages"] == turns(n)
        assert row["references"] == [row["target"]] == [turns(n)[-1]["content"]]
        assert row["first_learned"] == (4 if shape == "prompt" else 0)
        assert row["source"].startswith(f"system: You count.\n\nuser: After {n}?\n\nassistant: It")


def test_a_prompt_and_a_completion_that_are_texts_have_nothing_around_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} is ", "completion": f"number {n}"} for n in range(20)]
    task = load_task(write(tmp_path / "pairs.jsonl", rows))
    assert type(task) is GenerationTask
    assert task.template == "{source}"
    assert all(row["target"] == f"number {row['source'].split()[0]}" for row in task.train)
    assert all(row["source"].endswith(" is ") for row in task.train)


def test_texts_and_turns_may_not_be_mixed_whichever_comes_first(tmp_path: Path) -> None:
    text, chat = {"prompt": "a", "completion": "b"}, shapes(1)["prompt"]
    for rows, line in (([text, *[chat] * 9], 1), ([*[chat] * 9, text], 10)):
        path = write(tmp_path / "mixed.jsonl", rows)
        with pytest.raises(UserError, match=rf"mixed\.jsonl:{line}: column 'prompt': expected a l"):
            load_task(path)
        assert "1 broken row left out" in load_task(path, on_broken="skip").notes[0]


USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
PARTS = [{"type": "image", "url": "x.png"}, {"type": "text", "text": "What is it?"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, "the last turn is of user"),
        ({"messages": [ANSWER]}, "an assistant's turn alone"),
        ({"messages": []}, "column 'messages': expected a list of turns, got []"),
        ({"messages": "Hi"}, "expected a list of turns, got 'Hi'"),
        ({"messages": ["Hi", "Hello"]}, "turn 1: expected an object with role and content"),
        ({"messages": [USER, {"role": "tool", "content": "5"}, ANSWER]}, "turn 2: role 'tool'"),
        ({"messages": [{"from": "observation", "value": "5"}, ANSWER]}, "tools cannot be learned"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"id": 1}]}]}, "turn 2: key 'tool_calls'"),
        ({"messages": [USER, {**ANSWER, "function_call": {"name": "f"}}]}, "'function_call'"),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "hm"}]}, "thoughts apart from"),
        ({"messages": [{**USER, "content": PARTS}, ANSWER]}, "a list of images or other parts"),
        ({"messages": [{**USER, "content": PARTS[1:]}, ANSWER]}, "a list of parts"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "column 'tools': tools"),
        ({"messages": [USER, ANSWER], "images": ["x.png"]}, "column 'images': images"),
        ({"messages": [{**USER, "content": " "}, ANSWER]}, "turn 1: column 'content'"),
        ({"messages": [USER, {**ANSWER, "content": ""}]}, "turn 2: column 'content'"),
        ({"messages": [USER, {"role": "assistant"}]}, "turn 2: column 'content'"),
        ({"messages": [{**USER, "role": "narrator"}, ANSWER]}, "role 'narrator': expected system"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "weight 0"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "key 'weight' is 0.5"),
        ({"messages": [USER, {**ANSWER, "loss": False}]}, "key 'loss' is False"),
        ({"messages": [USER, {**ANSWER, "training": False}]}, "key 'training' is False"),
        ({"messages": [USER, {**ANSWER, "train_detail": []}]}, "key 'train_detail' is []"),
        ({"messages": [{**USER, "from": "gpt"}, ANSWER]}, "both 'role' and 'from'"),
        ({"messages": [{**USER, "value": "x"}, ANSWER]}, "both 'content' and 'value'"),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "Be."}, "beside a first turn of system"),
        ({"messages": [USER, {**ANSWER, "content": "\u732b"}]}, "does not score 1"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_its_line_or_left_out(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    fine = [{"messages": turns(n)} for n in range(20)]
    path = write(tmp_path / "chat.jsonl", [*fine[:2], row, *fine[2:]])
    with pytest.raises(UserError) as caught:
        load_task(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    task = load_task(path, on_broken="skip")
    assert "1 broken row left out" in task.notes[0]
    assert len(task.train) == 16


def test_keys_without_a_value_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    empty = {"tool_calls": None, "weight": 1, "name": "Ann"}
    messages = [{"role": "system", "content": ""}, {**USER, **empty}, {**ANSWER, **empty}]
    rows = [{"messages": messages, "tools": [], "id": n} for n in range(20)]
    task = load_task(write(tmp_path / "chat.jsonl", rows))
    assert task.train[0]["messages"] == [{"role": "system", "content": ""}, USER, ANSWER]


def test_a_template_of_your_own_is_read_and_counts_as_data(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", [{"messages": turns(n)} for n in range(20)])
    jinja = tmp_path / "mine.jinja"
    jinja.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    plain, own = load_task(path), load_task(path, chat_template=str(jinja))
    assert isinstance(own, ChatTask)
    assert own.chat_template == jinja.read_text(encoding="utf-8")
    jinja.write_text("{% for m in messages %}{{ m.role }}{% endfor %}", encoding="utf-8")
    other = load_task(path, chat_template=str(jinja))
    assert len({task.fingerprint for task in (plain, own, other)}) == 3
    for content, message in ((None, "cannot be read"), (" \n", "the file is empty")):
        jinja.unlink() if content is None else jinja.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_conversations(path, chat_template=jinja)
    texts = write(tmp_path / "t.jsonl", [{"prompt": "a", "completion": f"b{n}"} for n in range(20)])
    jinja.write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(UserError, match="go into no template; leave it out"):
        load_task(texts, chat_template=str(jinja))


def test_columns_named_by_the_user_are_classification_as_before(tmp_path: Path) -> None:
    rows = [{"prompt": f"text {n}", "completion": "ab"[n % 2]} for n in range(40)]
    task = load_task(write(tmp_path / "t.jsonl", rows), text=["prompt"], label="completion")
    assert not isinstance(task, GenerationTask)
