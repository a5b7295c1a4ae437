"""A decoder learns the assistant's turns, and answers the last one."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from ailora.errors import UserError
from ailora.lab.tasks import ChatTask, load_task
from ailora.lab.training import RunConfig, train
from ailora.lab.training.kinds import kind_of
from ailora.lab.training.kinds.chat import Chat
from ailora.lab.training.scoring import score
from tests.lab.training.decoders import save_decoder

TEMPLATE = (
    "{% for m in messages %}{{ m.role[:1] + ':' + m.content + ('</s>' if m.role == 'assistant' "
    "else ' ') }}{% endfor %}{{ 'a:' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write(tmp_path / "chat.jsonl", [conversation(n) for n in range(40)])


@pytest.fixture
def config(decoder: Path) -> RunConfig:
    return RunConfig(
        model=str(decoder),
        rank=4,
        lr=4e-2,
        epochs=4,
        batch_size=8,
        max_length=128,
        max_new_tokens=8,
    )


def conversation(n: int, *, more: str = "") -> dict[str, Any]:
    a, b = n % 6 + 1, n // 6 % 6 + 1
    return {
        "messages": [
            {"role": "user", "content": f"{a} and {b}?{more}"},
            {"role": "assistant", "content": f"It is {a + b}"},
            {"role": "user", "content": "Again?"},
            {"role": "assistant", "content": f"Still {a + b}"},
        ]
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_run_learns_answers_and_generates_the_last_one(
    config: RunConfig, chats: Path, tmp_path: Path
) -> None:
    config = replace(config, task=str(chats))
    task = load_task(chats)
    result = train(config, task, tmp_path / "runs")
    losses = [entry["selection_loss"] for entry in result["history"]]
    assert losses[-1] < 0.7 * losses[0]
    assert result["step0_deviation"] < 1e-4
    assert result["majority"] is None
    (folder,) = (tmp_path / "runs").iterdir()
    lines = (folder / "predictions-test.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["source"] for row in kept] == task.test["source"]
    assert any(row["generated"] for row in kept)
    again = score(config, task, folder / "adapter")
    assert again.metrics == result["metrics"]["test"]
    assert set(again.metrics) == {"rougeL", "exact"}


def test_each_kind_of_task_has_its_own_kind(config: RunConfig, chats: Path) -> None:
    task = load_task(chats)
    assert isinstance(task, ChatTask)
    assert type(kind_of(task, config)) is Chat


def test_the_prompt_asked_at_the_end_is_the_one_that_was_trained_on(
    config: RunConfig, chats: Path
) -> None:
    kind = kind_of(load_task(chats), config)
    _, tokenizer = kind.load()
    rows = kind.task.test
    for row, prompt in zip(
        kind.encode(rows, tokenizer), kind.prompts_of(rows, tokenizer), strict=True
    ):
        ids, labels = row["input_ids"], row["labels"]
        assert ids[: len(prompt)] == prompt
        answer = tokenizer.decode(labels[len(prompt) :])
        assert answer.startswith("Still ")
        assert answer.endswith("</s>")
        assert labels[len(prompt) - 1] == -100
        text = tokenizer.decode([label for label in labels if label != -100])
        assert text.count("</s>") == 2


def test_a_row_whose_answers_are_all_cut_off_is_refused_or_left_out_and_counted(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = conversation(3, more=" really" * 60)
    rows = [conversation(n) for n in range(10)]
    train_file = write(tmp_path / "train.jsonl", [*rows, long, *rows])
    task = load_task(train_file, test=str(write(tmp_path / "test.jsonl", [*rows, long])))
    kind = kind_of(task, config)
    _, tokenizer = kind.load()
    with pytest.raises(UserError, match=r"row \d+: max_length=128 cuts off all .*on_broken"):
        kind.encode(task.train, tokenizer)
    skipping = kind_of(task, replace(config, on_broken="skip"))
    with caplog.at_level(logging.WARNING):
        encoded = skipping.encode(task.train, tokenizer)
    assert len(encoded) == len(task.train) - 1
    assert f"1 of {len(task.train)} rows left out: {task.name}, row" in caplog.text
    assert all(set(labels) != {-100} for labels in encoded["labels"])
    only = task.train.filter(lambda row: "really" in row["source"])
    with pytest.raises(UserError, match="none of 1 rows can be learned"):
        skipping.encode(only, tokenizer)
    with caplog.at_level(logging.WARNING):
        prompts = kind.prompts_of(task.test, tokenizer)
    assert [len(prompt) <= 128 for prompt in prompts] == [True] * 11
    assert tokenizer.decode(prompts[-1]).endswith("u:Again? a:")
    assert "1 of 11 prompts lose their beginning" in caplog.text


def test_what_cannot_take_conversations_is_refused(
    config: RunConfig, chats: Path, tmp_path: Path
) -> None:
    task = load_task(chats)
    bare = save_decoder(tmp_path / "bare")
    with pytest.raises(UserError, match=r"no chat template.*give a jinja file .chat_template="):
        kind_of(task, replace(config, model=str(bare))).load()
    jinja = tmp_path / "mine.jinja"
    jinja.write_text(TEMPLATE, encoding="utf-8")
    own = load_task(chats, chat_template=str(jinja))
    _, tokenizer = kind_of(own, replace(config, model=str(bare))).load()
    assert tokenizer.chat_template == TEMPLATE
    with pytest.raises(UserError, match="conversations are cut by max_length alone"):
        kind_of(task, replace(config, max_source_tokens=9)).load()
    jinja.write_text("{{ raise_exception('no') if messages | length > 2 }}", encoding="utf-8")
    refusing = load_task(chats, chat_template=str(jinja))
    with pytest.raises(UserError, match=r"chat, row 1: the chat template refuses these turns: no"):
        kind_of(refusing, config).load()


def test_an_encoder_decoder_is_refused(
    config: RunConfig, chats: Path, decoder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.save_pretrained(tmp_path / "bart")
    size = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 256}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), decoder_start_token_id=0, **size, **heads)
    ).save_pretrained(tmp_path / "bart")
    with pytest.raises(UserError, match="is an encoder-decoder, which conversations are not put"):
        kind_of(load_task(chats), replace(config, model=str(tmp_path / "bart"))).load()


def test_a_template_that_never_ends_an_answer_is_warned_of(
    config: RunConfig, chats: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        kind_of(load_task(chats), config).load()
    assert "without an end token" not in caplog.text
    jinja = tmp_path / "mine.jinja"
    jinja.write_text(TEMPLATE.replace("</s>", " "), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        kind_of(load_task(chats, chat_template=str(jinja)), config).load()
    assert "closes an answer without an end token ('</s>'), so answers run on" in caplog.text
