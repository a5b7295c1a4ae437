"""Conversations as tokens: the answers' tokens are those that TRL learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl.chat_template_utils as trl_templates
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from ailora.errors import UserError
from ailora.lab.demo import decoder_dir
from ailora.lab.training.chat_prompts import ChatPrompts

# SmolLM2's own template with the answers marked, as TRL marks others.
MARKED = """{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant
' }}{% generation %}{{ message['content'] + '<|im_end|>' + '
' }}{% endgeneration %}{% else %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
LONG = [
    {"role": "system", "content": "You add.\nBriefly."},
    {"role": "user", "content": "12 + 3?"},
    {"role": "assistant", "content": "15"},
    {"role": "user", "content": "  And caf\u00e9 + \U0001f642? "},
    {"role": "assistant", "content": "I cannot\n\nadd <|im_start|>those."},
    {"role": "assistant", "content": " Sorry. "},
]
CONVERSATIONS = [LONG, LONG[1:], LONG[1:3], LONG[:3], LONG[1:5]]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(decoder_dir())
    return found


def learned(prompts: ChatPrompts, messages: list[dict[str, str]], first: int = 0) -> str:
    labels = prompts.example(messages, first)["labels"]
    return prompts.tokenizer.decode([label for label in labels if label != -100])


def by_trl(tokenizer: PreTrainedTokenizerBase, rows: list[Any], folder: Path) -> list[Any]:
    """The columns that TRL's trainer makes for its loss on the assistant's turns alone."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder), assistant_only_loss=True, use_cpu=True, report_to=[], bf16=False
        ),
        train_dataset=Dataset.from_list([{"messages": row} for row in rows]),
        processing_class=tokenizer,
    )
    return list(trainer.train_dataset)


@pytest.mark.parametrize("template", ["own", "marked"])
def test_the_answers_tokens_are_those_that_trl_learns(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str
) -> None:
    own = tokenizer.get_chat_template()
    tokenizer.chat_template = MARKED
    theirs = by_trl(tokenizer, CONVERSATIONS, tmp_path)
    tokenizer.chat_template = own if template == "own" else MARKED
    prompts = ChatPrompts(tokenizer, 4096)
    assert prompts.marked is (template == "marked")
    for messages, row in zip(CONVERSATIONS, theirs, strict=True):
        found = prompts.example(messages)
        assert found["input_ids"] == row["input_ids"]
        assert found["labels"] == row["labels"]
        assert found["attention_mask"] == [1] * len(row["labels"])
        assert -100 in row["labels"]
        assert set(row["labels"]) != {-100}


@pytest.mark.parametrize("name", ["gemma3", "lfm2", "qwen3_instruct_2507", "qwen3_vl"])
def test_templates_as_they_come_give_what_trls_marked_ones_give(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    messages = LONG[:5]
    found = []
    for template in (f"{name}_chat_template", f"{name}_training_chat_template"):
        tokenizer.chat_template = getattr(trl_templates, template)
        found.append(ChatPrompts(tokenizer, 4096).example(messages))
    assert found[0] == found[1]


def test_the_loss_is_on_the_answers_or_on_all_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = ChatPrompts(tokenizer, 4096)
    assert learned(prompts, LONG[:4] + LONG[1:3]) == "15<|im_end|>\n15<|im_end|>\n"
    whole = ChatPrompts(tokenizer, 4096, on_answer=False).example(LONG)
    assert whole["labels"] == whole["input_ids"] == prompts.example(LONG)["input_ids"]


@pytest.mark.parametrize("marked", [False, True])
def test_answers_of_a_prompt_are_not_learned(
    tokenizer: PreTrainedTokenizerBase, *, marked: bool
) -> None:
    if marked:
        tokenizer.chat_template = MARKED
    prompts = ChatPrompts(tokenizer, 4096)
    messages = [*LONG[:3], {"role": "user", "content": "1 + 1?"}, LONG[-1]]
    assert learned(prompts, messages, 4) == " Sorry. <|im_end|>\n"
    assert learned(prompts, messages, 2) == "15<|im_end|>\n Sorry. <|im_end|>\n"


def test_a_prompt_is_the_turns_before_the_last_with_the_cue(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    prompts = ChatPrompts(tokenizer, 4096)
    prompt = prompts.prompt(LONG[:5])
    assert tokenizer.decode(prompt).endswith("\U0001f642? <|im_end|>\n<|im_start|>assistant\n")
    whole = prompts.example(LONG[:5])["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert ChatPrompts(tokenizer, 7).fitting(prompt) == prompt[-7:]


@pytest.mark.parametrize("on_answer", [True, False])
def test_a_long_conversation_loses_its_end_but_never_every_answer(
    tokenizer: PreTrainedTokenizerBase, *, on_answer: bool
) -> None:
    whole = ChatPrompts(tokenizer, 4096, on_answer=on_answer).example(LONG)
    first = next(
        at for at, x in enumerate(ChatPrompts(tokenizer, 4096).example(LONG)["labels"]) if x != -100
    )
    cut = ChatPrompts(tokenizer, first + 1, on_answer=on_answer).example(LONG)
    assert cut == {name: column[: first + 1] for name, column in whole.items()}
    if on_answer:
        with pytest.raises(UserError, match=rf"max_length={first} cuts off all that is to be lea"):
            ChatPrompts(tokenizer, first).example(LONG)


def test_templates_that_do_not_tell_the_answers_are_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = tokenizer.get_chat_template()
    # As reasoning models' templates: an answer is written otherwise once another turn follows.
    tokenizer.chat_template = own.replace(
        "message['content']", "(message['content'] if loop.last else message['content'][:1])"
    )
    with pytest.raises(UserError, match=r"rewrites earlier turns: the first 2 of 6 .*generation %"):
        ChatPrompts(tokenizer, 4096).example(LONG)
    whole = ChatPrompts(tokenizer, 4096, on_answer=False).example(LONG)  # nothing to be told apart
    assert whole["labels"] == whole["input_ids"]
    tokenizer.chat_template = own
    joined = [LONG[1], {"role": "assistant", "content": "\n\nYes"}]
    with pytest.raises(UserError, match="the tokenizer joins the end of a turn"):
        ChatPrompts(tokenizer, 4096).example(joined)
    tokenizer.chat_template = "{{ raise_exception('turns must alternate') }}"
    with pytest.raises(UserError, match="refuses these turns: turns must alternate"):
        ChatPrompts(tokenizer, 4096).prompt(LONG)
    tokenizer.chat_template = "{% for message in messages %}"
    with pytest.raises(UserError, match="refuses these turns"):
        ChatPrompts(tokenizer, 4096).prompt(LONG)
