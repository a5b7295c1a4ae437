"""Prompts are alike in training and in generating; many are answered as each would be alone."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer

import ailora
from ailora.errors import UserError
from ailora.lab.training.generate import (
    IGNORED,
    DecoderPrompts,
    EncoderPrompts,
    Search,
    batches,
    generate,
    padded,
    up_to,
)
from tests.conftest import tokenizer as encoder_tokenizer
from tests.families import ENCODER_DECODERS, FAMILIES, FIRST_ORDINARY_ID, VOCAB
from tests.lab.training.decoders import TEMPLATE, bpe_tokenizer, llama, problems

SOURCE, TARGET = "Ann has 3 apples and buys 4 more. How many?", "3 + 4 = 7. It is 7"
LONG = " ".join(f"Then she buys {count % 10} old books." for count in range(60))


def decoder_prompts(
    *, max_length: int = 512, on_answer: bool = True, max_source: int | None = None
) -> DecoderPrompts:
    return DecoderPrompts(
        TEMPLATE, bpe_tokenizer(), max_length, on_answer=on_answer, max_source=max_source
    )


def merging_tokenizer() -> hf.PreTrainedTokenizerFast:
    """Merges across words and lines, as nothing is split before."""
    inner = Tokenizer(BPE())
    text = TEMPLATE.format(source=SOURCE) + TARGET
    trainer = BpeTrainer(vocab_size=300, special_tokens=["</s>"], show_progress=False)
    inner.train_from_iterator([text] * 20, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")  # noqa: S106


def test_a_row_is_prompt_target_and_end_token() -> None:
    tokenizer, row = bpe_tokenizer(), decoder_prompts().example(SOURCE, TARGET)
    text = TEMPLATE.format(source=SOURCE) + TARGET + tokenizer.eos_token
    assert tokenizer.decode(row["input_ids"]) == text
    assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_the_loss_is_on_the_answer_and_its_end_alone_or_on_the_whole_sequence() -> None:
    tokenizer = bpe_tokenizer()
    row = decoder_prompts().example(SOURCE, TARGET)
    learned = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(learned) == TARGET + tokenizer.eos_token
    assert row["labels"][-len(learned) :] == row["input_ids"][-len(learned) :]
    assert len(row["labels"]) == len(row["input_ids"])
    whole = decoder_prompts(on_answer=False).example(SOURCE, TARGET)
    assert whole["labels"] == whole["input_ids"] == row["input_ids"]


def test_training_sees_the_tokens_that_generating_starts_from_even_if_a_tokenizer_would_merge() -> (
    None
):
    tokenizer = merging_tokenizer()
    prompts = DecoderPrompts(TEMPLATE, tokenizer, 512)
    prompt = prompts.prompt(SOURCE)
    assert prompts.example(SOURCE, TARGET)["input_ids"][: len(prompt)] == prompt
    together = tokenizer(TEMPLATE.format(source=SOURCE) + TARGET)["input_ids"]
    assert together[: len(prompt)] != prompt, "this tokenizer does not merge across the border"


def test_a_long_source_loses_its_end_and_nothing_else_is_cut() -> None:
    tokenizer, prompts = bpe_tokenizer(), decoder_prompts(max_length=120)
    row = prompts.example(LONG, TARGET)
    text = tokenizer.decode(row["input_ids"], skip_special_tokens=True)
    before, after = TEMPLATE.split("{source}")
    assert 110 < len(row["input_ids"]) <= 120
    assert text.startswith(before + "Then she buys 0 old books. Then")
    assert text.endswith(after + TARGET)
    kept = text.removeprefix(before).removesuffix(after + TARGET)
    assert LONG.startswith(kept)
    assert len(kept) < len(LONG)
    prompt = prompts.prompt(LONG)
    assert 110 < len(prompt) <= 120
    assert tokenizer.decode(prompt).endswith(after)


def test_what_fits_exactly_is_not_cut() -> None:
    length = len(decoder_prompts().example(SOURCE, TARGET)["input_ids"])
    exact = decoder_prompts(max_length=length).example(SOURCE, TARGET)
    assert exact == decoder_prompts().example(SOURCE, TARGET)
    shorter = decoder_prompts(max_length=length - 1).example(SOURCE, TARGET)
    assert len(shorter["input_ids"]) == length - 1


def test_a_source_keeps_so_many_tokens_whatever_else_the_row_holds() -> None:
    tokenizer = bpe_tokenizer()
    before, after = TEMPLATE.split("{source}")
    kept = tokenizer.decode(tokenizer(LONG, add_special_tokens=False)["input_ids"][:30])
    prompts = decoder_prompts(max_source=30)
    assert tokenizer.decode(prompts.prompt(LONG)) == before + kept + after
    row = prompts.example(LONG, TARGET)
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == (
        before + kept + after + TARGET
    )
    exact = len(tokenizer(SOURCE, add_special_tokens=False)["input_ids"])
    whole = decoder_prompts().prompt(SOURCE)
    assert decoder_prompts(max_source=exact).prompt(SOURCE) == whole
    assert decoder_prompts(max_source=exact - 1).prompt(SOURCE) != whole


def test_a_target_that_leaves_no_room_is_refused_not_cut() -> None:
    with pytest.raises(UserError, match=r"max_length=60 has no room for any of the source 'Ann"):
        decoder_prompts(max_length=60).example(SOURCE, TARGET * 20)
    with pytest.raises(UserError, match="max_length=5 "):
        decoder_prompts(max_length=5).prompt(SOURCE)


def test_of_the_tokens_a_tokenizer_adds_a_prompt_has_the_first_alone() -> None:
    tokenizer = bpe_tokenizer(add_start=True)
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("x")["input_ids"][-1] == tokenizer.eos_token_id
    row = DecoderPrompts(TEMPLATE, tokenizer, 512).example(SOURCE, TARGET)
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    assert row["input_ids"][0] == tokenizer.bos_token_id
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1
    assert decoder_prompts().example(SOURCE, TARGET)["input_ids"] == row["input_ids"][1:]


def test_braces_in_a_source_are_text() -> None:
    assert "{x} {source}" in bpe_tokenizer().decode(decoder_prompts().prompt("{x} {source}"))


@pytest.mark.parametrize("template", ["no place", "{source} twice {source}"])
def test_a_template_holds_the_source_once(template: str) -> None:
    with pytest.raises(UserError, match="once"):
        DecoderPrompts(template, bpe_tokenizer(), 10)


def test_an_encoder_reads_the_cut_source_and_learns_the_whole_target() -> None:
    tokenizer = encoder_tokenizer()
    source, target = "the film was very good", "good film and good cast and story"
    row = EncoderPrompts(tokenizer, 5).example(source, target)
    assert tokenizer.decode(row["input_ids"]) == "[CLS] the film was [SEP]"
    assert row["attention_mask"] == [1] * 5
    assert tokenizer.decode(row["labels"]) == f"[CLS] {target} [SEP]"
    assert EncoderPrompts(tokenizer, 5).prompt(source) == row["input_ids"]


def word_tokenizer(*, end: str = "w3") -> hf.PreTrainedTokenizerFast:
    """A word for each of the families' ids; padding is 1."""
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
