"""A tiny random model of every architecture of the installed transformers, from its own config.

The numbers of a config that say how large it is are made small by their names; what that leaves
inconsistent is mended by hand below. Nothing is downloaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from packaging.version import Version
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ailora.versions import TESTED, is_transformers_4

HEADS: Mapping[str, Mapping[str, Any]] = {
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
HEADS_OF: Mapping[str, tuple[str, ...]] = {
    model_type: tuple(head for head, names in HEADS.items() if model_type in names)
    for model_type in sorted({name for names in HEADS.values() for name in names})
}

_WIDTH, _FFN, _LAYERS, _ATTENTION_HEADS, _KV_HEADS, _HEAD_SIZE = 32, 48, 2, 4, 2, 8
_SIZES: tuple[tuple[int, str], ...] = (
    (
        _WIDTH,
        "hidden_size d_model d_latents pronunciation_embed_dim shape_embed_dim n_embd dim emb_dim "
        "word_embed_proj_dim embed_dim",
    ),
    (
        _LAYERS,
        "num_hidden_layers num_layers n_layer n_layers num_decoder_layers encoder_layers "
        "decoder_layers num_encoder_layers num_blocks",
    ),
    (
        _ATTENTION_HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
        "n_routed_experts num_experts num_local_experts rotary_dim moe_num_experts "
        "qk_rope_head_dim",
    ),
    (
        _KV_HEADS,
        "num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk "
        "moe_k linear_num_key_heads linear_num_value_heads num_self_attends_per_block n_groups "
        "mamba_n_groups n_filters num_filters",
    ),
    (
        _HEAD_SIZE,
        "head_dim d_kv d_head v_head_dim kv_channels dim_head qk_nope_head_dim "
        "global_head_dim swa_head_dim mamba_d_state state_size ssm_state_size mamba_chunk_size "
        "chunk_size linear_key_head_dim linear_value_head_dim num_latents num_landmarks",
    ),
    (
        _FFN,
        "intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim n_inner hidden_dim "
        "ffn_hidden_size d_inner dim_ff shared_expert_intermediate_size shared_intermediate_size",
    ),
    (
        16,
        "embedding_size moe_intermediate_size shared_expert_intermediate_size q_lora_rank "
        "kv_lora_rank expert_ffn_hidden_size",
    ),
    (
        64,
        "vocab_size src_vocab_size tgt_vocab_size encoder_hash_byte_group_vocab entity_vocab_size "
        "vocab_size_per_layer_input",
    ),
    (128, "max_position_embeddings n_positions n_ctx max_seq_len"),
    (1, "pad_token_id decoder_start_token_id"),
    (2, "bos_token_id"),
    (3, "eos_token_id"),
)
_SMALL = {name: size for size, names in _SIZES for name in names.split()}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MENDED: Mapping[str, Mapping[str, Any]] = {
    "axk1": {"n_group": 1, "topk_group": 1},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
    "dbrx": {"attn_config": {"clip_qkv": 8.0, "rope_theta": 10000.0, "kv_n_heads": _KV_HEADS}},
    "dory": {
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"] * 3,
        "num_hidden_layers": 12,
        "n_input_layers": 4,
        "n_recurrent_layers": 4,
        "n_output_layers": 4,
    },
    "dots1": {"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "dots3_note_text": {"num_key_value_heads": _ATTENTION_HEADS},
    "esmc": {"num_key_value_heads": _ATTENTION_HEADS},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
        "intermediate_size": [_FFN, _FFN],
    },
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32},
    "funnel": {"block_sizes": [2, 2]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "layer_types": ["mamba", "attention"],
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "led": {"attention_window": [4, 4]},
    "kimi_linear": {"linear_head_dim": _HEAD_SIZE, "linear_num_heads": _ATTENTION_HEADS},
    "lilt": {"hidden_size": 48},
    "longcat_flash": {"head_dim": _ATTENTION_HEADS, "zero_expert_num": 2},
    "longformer": {"attention_window": 4},
    "longt5": {"local_radius": 4},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nystromformer": {"segment_means_seq_len": 8},
    "pegasus_x": {"block_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "neomme": {"head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": _HEAD_SIZE,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
        "attention_head_size": _HEAD_SIZE,
        "attn_layers": ["local", "lsh"],
    },
    "squeezebert": {"embedding_size": _WIDTH},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        # "mamba" in transformers 4
        "layers_block_type": [hf.ZambaConfig().layers_block_type[0], "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def config_of(
    model_type: str, head: str | None = None, **changes: Any
) -> tuple[type[hf.PreTrainedModel], hf.PretrainedConfig]:
    """The class of a model type under a head (its first without one), and a tiny config for it."""
    named = HEADS[head or HEADS_OF[model_type][0]][model_type]
    model_class = getattr(hf, named if isinstance(named, str) else named[0])
    config_class = model_class.config_class or CONFIG_MAPPING[model_type]
    if model_type == "encoder-decoder":
        bert = small_settings(hf.BertConfig)
        return model_class, hf.EncoderDecoderConfig(
            encoder=bert, decoder={**bert, "is_decoder": True, "add_cross_attention": True}
        )
    settings = small_settings(config_class, changes)
    return model_class, config_class(**settings)


def build(
    model_type: str, head: str | None = None, *, device: str = "cpu", **changes: Any
) -> hf.PreTrainedModel:
    """A tiny model in eval mode with seeded weights (none on the meta device).

    Args:
        model_type: A key of ``HEADS_OF``.
        head: ``"causal"``, ``"masked"``, ``"seq2seq"`` or ``"classification"``; None for the first.
        device: ``"meta"`` builds any size in milliseconds.
        changes: Settings of the config that differ.

    A test that asks for one is skipped where the installed transformers is too old to have it.

    Raises:
        Exception: Whatever transformers raises for an architecture that this cannot build.
    """
    _skip_in_older_versions(model_type, device)
    model_class, config = config_of(model_type, head, **changes)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        with torch.device(device):
            return model_class._from_config(config, attn_implementation="eager").eval()


def _skip_in_older_versions(model_type: str, device: str) -> None:
    newest = Version(TESTED["transformers"][1])
    if model_type not in HEADS_OF and Version(hf.__version__) < newest:  # in others, a mistake
        pytest.skip("this transformers does not have it yet")
    if model_type == "t5gemma" and is_transformers_4() and device != "meta":
        pytest.skip("transformers 4 builds it at its full size, 16 GB, from a small config")


def small_settings(config_class: Any, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings that shrink a config and, by name, the configs inside it."""
    default = config_class()
    fields = default.to_dict()
    accepted = inspect.signature(config_class.__init__).parameters
    settings = {k: v for k, v in _SMALL.items() if k in fields or k in accepted}
    settings |= _one_layer_of_each_kind(fields)
    if "qk_nope_head_dim" in settings:  # latent attention: no groups, and sizes that differ
        settings |= {"num_key_value_heads": _ATTENTION_HEADS, "v_head_dim": 12}
        if "head_dim" not in accepted:  # what the config makes of the others
            settings.pop("head_dim", None)
    for name in config_class.sub_configs or {}:
        inner = getattr(default, name, None)
        if inner is not None:
            settings[name] = {**small_settings(type(inner)), "model_type": inner.model_type}
    return settings | dict(_MENDED.get(config_class.model_type, {})) | dict(changes or {})


def _one_layer_of_each_kind(fields: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("layer_types", "layers_block_type"):
        kinds = list(dict.fromkeys(fields.get(name) or ()))
        if len(kinds) > 1:
            return {name: kinds, "num_hidden_layers": len(kinds)}
    return {}


@contextmanager
def _quiet() -> Iterator[None]:
    level = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()
    yield
    hf.logging.set_verbosity(level)
