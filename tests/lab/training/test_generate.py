"""Many prompts at once are answered as each would be alone."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
import transformers as hf

import ailora
from ailora.errors import UserError
from ailora.lab.training.generate import Search, batches, generate, padded, up_to
from tests.families import ENCODER_DECODERS, FAMILIES, FIRST_ORDINARY_ID, VOCAB
from tests.lab.training.decoders import bpe_tokenizer, llama, problems


def word_tokenizer(*, end: str = "w3") -> hf.PreTrainedTokenizerFast:
    """A word for each of the families' ids; padding is 1."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {f"w{index}": index for index in range(VOCAB)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))  # noqa: S106
    inner.pre_tokenizer = Whitespace()
    special = {"pad_token": "w1", "eos_token": end}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def prompts(count: int = 9, *, longest: int = 14) -> list[list[int]]:
    """Of unequal length, in no order."""
    draw = random.Random(0)  # noqa: S311
    return [
        draw.choices(range(FIRST_ORDINARY_ID, VOCAB), k=draw.randint(1, longest))
        for _ in range(count)
    ]


def lively(family: str) -> Any:
    """A family's model; BART's small random weights would answer the same to every prompt."""
    model = FAMILIES[family]()
    if family == "bart":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4)
    return model


def alone(model: Any, prompt: list[int], **settings: Any) -> list[int]:
    """Answer of transformers itself to one prompt without padding."""
    ends = [model.generation_config.eos_token_id, 3]
    found = model.generate(
        torch.tensor([prompt]), do_sample=False, pad_token_id=1, eos_token_id=ends, **settings
    )[0]
    answer = found[1 if model.config.is_encoder_decoder else len(prompt) :].tolist()
    return list(itertools.takewhile(lambda token: token not in ends, answer))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "opt", "bart", "t5"])
def test_a_batch_is_answered_as_each_prompt_alone(family: str, beams: int) -> None:
    model, tokenizer, asked = lively(family), word_tokenizer(), prompts()
    texts = generate(model, tokenizer, asked, Search(max_new_tokens=12, num_beams=beams))
    expected = [alone(model, prompt, max_new_tokens=12, num_beams=beams) for prompt in asked]
    assert texts == tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("side", ["right", "unmasked"])
def test_padding_done_wrong_gives_other_texts(side: str) -> None:
    model, tokenizer, asked = FAMILIES["llama"](), word_tokenizer(), prompts()
    texts = generate(model, tokenizer, asked, Search(max_new_tokens=12))
    batch = padded(asked, 1, left=side != "right")
    if side == "unmasked":
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    found = model.generate(**batch, max_new_tokens=12, pad_token_id=1, eos_token_id=3)
    wrong = tokenizer.batch_decode(
        found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert wrong != texts


def test_texts_come_in_the_order_of_their_prompts_whatever_the_batches() -> None:
    model, tokenizer, asked = FAMILIES["llama"](), word_tokenizer(), prompts()
    whole = generate(model, tokenizer, asked, Search(max_new_tokens=8))
    for search in (
        Search(max_new_tokens=8, batch_size=2),
        Search(max_new_tokens=8, batch_tokens=40),
        Search(max_new_tokens=8, batch_tokens=1),
    ):
        assert generate(model, tokenizer, asked, search) == whole
    assert generate(model, tokenizer, asked[::-1], Search(max_new_tokens=8)) == whole[::-1]
    assert generate(model, tokenizer, [], Search()) == []


def test_progress_counts_prompts_to_the_last() -> None:
    seen: list[tuple[int, int]] = []
    search = Search(max_new_tokens=2, batch_size=4)
    generate(
        FAMILIES["llama"](),
        word_tokenizer(),
        prompts(),
        search,
        on_progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(4, 9), (8, 9), (9, 9)]


def test_batches_hold_every_row_once_longest_first_and_within_both_bounds() -> None:
    lengths = [5, 90, 12, 40, 40, 7, 300, 1]
    search = Search(max_new_tokens=10, num_beams=2, batch_size=3, batch_tokens=300)
    found = list(batches(lengths, search))
    assert [row for rows in found for row in rows] == [6, 1, 3, 4, 2, 5, 0, 7]
    for rows in found:
        held = len(rows) * (max(lengths[row] for row in rows) + 10) * 2
        assert len(rows) <= 3
        assert held <= 300 or len(rows) == 1
    assert found == [[6], [1], [3, 4, 2], [5, 0, 7]]
    search = Search(max_new_tokens=10, num_beams=2, batch_size=8, batch_tokens=200)
    assert list(batches(lengths, search)) == [[6], [1], [3, 4], [2, 5, 0, 7]]


def test_an_answer_ends_at_the_end_token_and_leaves_it_out() -> None:
    model, asked = FAMILIES["llama"](), prompts()
    free = generate(model, word_tokenizer(), asked, Search(max_new_tokens=12))
    words = free[0].split()
    end = next(word for index, word in enumerate(words) if index > 2 and word not in words[:index])
    ended = generate(model, word_tokenizer(end=end), asked, Search(max_new_tokens=12))
    assert ended[0].split() == words[: words.index(end)]
    assert [text.split() for text in ended] == [up_to_word(text, end) for text in free]


def up_to_word(text: str, end: str) -> list[str]:
    words = text.split()
    return words[: words.index(end)] if end in words else words


def test_a_stop_string_ends_an_answer_and_spares_the_tokens_after_it() -> None:
    model, tokenizer = llama(330), bpe_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    asked = [tokenizer(source)["input_ids"] for source, _ in problems()[:6]]
    free = generate(model, tokenizer, asked, Search(max_new_tokens=20))
    stop = free[0][4:7]
    lengths: list[int] = []
    real = model.generate

    def watched(*inputs: Any, **options: Any) -> Any:
        found = real(*inputs, **options)
        lengths.append(found.shape[1] - options["input_ids"].shape[1])
        return found

    model.generate = watched
    search = Search(max_new_tokens=20, stop=(stop,), batch_size=1)
    cut = generate(model, tokenizer, asked, search)
    assert cut == [up_to(text, (stop,)) for text in free]
    assert cut[0] != free[0]
    assert min(lengths) < 20


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("5\n\n### Instruction:\nx", ("### Instruction", "### Response"), "5\n\n"),
        ("a ### Response b ### Instruction", ("### Instruction", "### Response"), "a "),
        ("no heading", ("###",), "no heading"),
        ("all", (), "all"),
    ],
)
def test_a_text_is_cut_at_the_first_of_the_stop_strings(
    text: str, stop: tuple[str, ...], expected: str
) -> None:
    assert up_to(text, stop) == expected


def test_a_model_that_would_sample_is_greedy_here_and_keeps_its_other_settings() -> None:
    model, tokenizer, asked = FAMILIES["llama"](), word_tokenizer(), prompts()
    greedy = generate(model, tokenizer, asked, Search(max_new_tokens=12))
    model.generation_config = hf.GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, top_k=20, max_length=3
    )
    assert generate(model, tokenizer, asked, Search(max_new_tokens=12)) == greedy
    assert model.generation_config.do_sample is True
    model.generation_config = hf.GenerationConfig(no_repeat_ngram_size=1)
    varied = generate(model, tokenizer, asked, Search(max_new_tokens=12))
    assert all(len(set(text.split())) == len(text.split()) for text in varied)
    assert varied != greedy


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_restored(training: bool) -> None:
    model, tokenizer, asked = FAMILIES["opt"](), word_tokenizer(), prompts()
    expected = generate(model, tokenizer, asked, Search(max_new_tokens=8))
    model.train(training)
    assert generate(model, tokenizer, asked, Search(max_new_tokens=8)) == expected
    assert model.training is training


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_an_adapted_model_answers_as_its_base_before_it_is_trained(family: str) -> None:
    model, tokenizer, asked = FAMILIES[family](), word_tokenizer(), prompts()
    expected = generate(model, tokenizer, asked, Search(max_new_tokens=8))
    kind = "SEQ_2_SEQ_LM" if family in ENCODER_DECODERS else "CAUSAL_LM"
    adapted = ailora.get_peft_model(model, ailora.AILoRAConfig(r=2, task_type=kind))
    assert generate(adapted, tokenizer, asked, Search(max_new_tokens=8)) == expected


@pytest.mark.parametrize("name", ["max_new_tokens", "num_beams", "batch_size", "batch_tokens"])
def test_counts_below_one_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=0"):
        Search(**{name: 0})
