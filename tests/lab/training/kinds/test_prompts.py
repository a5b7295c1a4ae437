"""Prompts are the same tokens in training and in generating, and only sources are cut."""

from __future__ import annotations

import pytest
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from ailora.errors import UserError
from ailora.lab.training.kinds.prompts import IGNORED, DecoderPrompts, EncoderPrompts
from tests.conftest import tokenizer as encoder_tokenizer
from tests.lab.training.decoders import TEMPLATE, bpe_tokenizer

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
