"""Layers whose weight is read by the module around them: told from those that are called."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from ailora.errors import UserError
from ailora.roles import find_projections
from ailora.roles.uncalled import uncalled


class _Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.called, self.both = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(x.to(self.called.weight.dtype))
        x = self.both(x) if self.training else linear(x, self.both.weight)
        return self._last(x)

    def _last(self, x: Tensor) -> Tensor:
        return linear(x, self.read.weight, self.read.bias)


class _Calls(_Reads):
    def _last(self, x: Tensor) -> Tensor:
        return self.read(x)  # type: ignore[no-any-return]


class _Hands(_Reads):
    def _last(self, x: Tensor) -> Tensor:
        return linear(x, self.read.weight) + _processor(self, x)


class _Looks(_Reads):
    def _last(self, x: Tensor) -> Tensor:
        return self._look_up(x, self.read)

    def _look_up(self, x: Tensor, table: nn.Linear) -> Tensor:
        return x + table.weight.t()[:1]


class _Applies(_Looks):
    def _look_up(self, x: Tensor, table: nn.Linear) -> Tensor:
        return table(x)  # type: ignore[no-any-return]


class _Fuses(_Calls):
    def fuse(self) -> Tensor:
        return torch.cat([self.read.weight, self.called.weight])


def _processor(module: _Reads, x: Tensor) -> Tensor:
    return module.read(x)  # type: ignore[no-any-return]


def test_a_weight_that_is_read_where_its_layer_is_never_called_is_told() -> None:
    assert uncalled(_Reads()) == {"read"}
    assert uncalled(_Calls()) == uncalled(_Fuses()) == frozenset()


def test_a_child_is_followed_into_a_method_that_it_is_handed_to() -> None:
    assert uncalled(_Looks()) == {"read"}
    assert uncalled(_Applies()) == frozenset()


def test_a_module_that_is_handed_to_a_function_may_be_called_there() -> None:
    assert uncalled(_Hands()) == frozenset()


class _ReadsInstead(_Calls):
    def _last(self, x: Tensor) -> Tensor:
        return linear(x, self.read.weight)

    def fuse(self) -> Tensor:
        return torch.cat([self.called.weight, self.read.weight])


def test_what_is_overridden_or_does_not_run_in_forward_does_not_count() -> None:
    assert uncalled(_ReadsInstead()) == {"read"}


def test_torchs_own_modules_that_hand_weights_to_a_function() -> None:
    assert uncalled(nn.MultiheadAttention(8, 2)) == {"out_proj"}
    assert {"linear1", "linear2"} <= uncalled(nn.TransformerEncoderLayer(8, 2, 16))
    assert uncalled(nn.TransformerDecoderLayer(8, 2, 16)) == frozenset()


def test_wavlm_reads_all_four_and_bloom_calls_what_it_reads_for_tensor_parallelism() -> None:
    assert uncalled(WavLMAttention(32, 4)) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    config = hf.BloomConfig(hidden_size=32, n_head=4)
    with torch.device("meta"):
        assert uncalled(BloomAttention(config, layer_idx=0)) == frozenset()


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(linear(x, self.q_proj.weight) * self.k_proj(x) + self.v_proj(x))  # type: ignore[no-any-return]


def test_attention_whose_query_is_never_called_is_refused_in_one_line() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"self_attn": _Attention()})])})
    with pytest.raises(UserError, match="reads the weight of 'q_proj' itself") as caught:
        find_projections(model)
    assert "\n" not in str(caught.value)
