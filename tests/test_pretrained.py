"""What is said of a model that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers as hf

from ailora.errors import UserError
from ailora.pretrained import named_in_errors


def test_the_cause_is_said_whole_and_in_one_line() -> None:
    with pytest.raises(UserError) as refused, named_in_errors("mine"):
        raise OSError("Can't load it from one of:\n (1) a file,\n\n (2) a tokenizer\n")
    assert str(refused.value).startswith(
        "model 'mine' cannot be loaded: Can't load it from one of: (1) a file, (2) a tokenizer ("
    )


def test_an_error_without_words_is_called_by_its_kind() -> None:
    with pytest.raises(UserError, match="cannot be loaded: KeyError"), named_in_errors("mine"):
        raise KeyError


NO_TOKENIZER = r"(slow tokenizer|protobuf).*\(give "  # transformers 5 and 4


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    hf.LlamaConfig(vocab_size=30, intermediate_size=48, **small).save_pretrained(tmp_path)
    with (
        pytest.raises(UserError, match=NO_TOKENIZER),
        named_in_errors("mine"),
    ):
        hf.AutoTokenizer.from_pretrained(tmp_path)
