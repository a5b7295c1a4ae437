"""What is known about feed-forward blocks, as plain data: what their matrices are called.

Where one weight holds gate and up no name tells which rows are whose: that is listed by class. A
class is listed only after a test has tried it (``tests/roles/feed_forward_probe.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

# The children of a block that are its gate, up and down.
GATED: tuple[tuple[str, str, str], ...] = (
    ("gate_proj", "up_proj", "down_proj"),  # LLaMA, ...
    ("gate_proj.linear", "up_proj.linear", "down_proj.linear"),  # the tower of Gemma 4
    ("wi_0", "wi_1", "wo"),  # T5 1.1
    ("w1", "w3", "w2"),  # LFM2
    ("linear_1", "linear_2", "out_projection"),  # AuraFlow
    ("w_in.w_0", "w_in.w_1", "w_out"),  # CPM-Ant
    ("proj_up_gate", "proj_up", "proj_down"),  # xLSTM
)
# The children of a block without a gate that are its up and down.
PLAIN: tuple[tuple[str, str], ...] = (
    ("up_proj", "down_proj"),  # MPT, Nemotron, ...
    ("fc1", "fc2"),  # BART, OPT, Phi, ...
    ("c_fc", "c_proj"),  # GPT-2
    ("dense_h_to_4h", "dense_4h_to_h"),  # BLOOM, GPT-NeoX, Falcon
    ("intermediate.dense", "output.dense"),  # BERT
    ("fc_in", "fc_out"),  # GPT-J
    ("wi", "wo"),  # T5
    ("lin1", "lin2"),  # DistilBERT, XLM
    ("linear1", "linear2"),  # torch's own layers
    ("linear_1", "linear_2"),  # Funnel
    ("linear_fc1", "linear_fc2"),  # the vision tower of Qwen3-VL
    ("intermediate_dense", "output_dense"),  # wav2vec2, HuBERT
    ("layer_1", "layer_2"),  # XLNet
    ("dense1", "dense2"),  # Perceiver
    ("dense.dense", "output.dense"),  # Reformer
    ("ffw_layer_1", "ffw_layer_2"),  # the sound of Gemma 3n
    ("ffw_layer_1.linear", "ffw_layer_2.linear"),  # of Gemma 4
    ("ffn", "ffn_output"),  # ALBERT
    ("intermediate", "output"),  # ProphetNet
    ("ffn.0", "ffn.2"),  # CTRL
    ("w_1", "w_2"),
    ("Wi", "Wo"),
    ("input_linear", "output_linear"),
)
# Names that say nothing of what is multiplied with what: two square ones could be exchanged.
NUMBERED = frozenset({"w1", "w2", "w3"})
# A child that holds gate and up in one weight, and the one that is down.
FUSED: tuple[tuple[str, str], ...] = (("gate_up_proj", "down_proj"), ("w12", "w3"))
# Classes without a gate whose up and down are called otherwise.
PLAIN_BY_CLASS: Mapping[str, tuple[str, str]] = {
    "modeling_bark.BarkMLP": ("in_proj", "out_proj"),
    "modeling_d_fine.DFineMLP": ("layers.0", "layers.1"),
    "modeling_deimv2.Deimv2MLP": ("layers.0", "layers.1"),
    "modeling_edgetam_video.EdgeTamVideoFeedForward": ("proj_in", "proj_out"),
    "modeling_sam2.Sam2FeedForward": ("proj_in", "proj_out"),
    "modeling_sam2_video.Sam2VideoFeedForward": ("proj_in", "proj_out"),
    "modeling_sam3_tracker.Sam3TrackerFeedForward": ("proj_in", "proj_out"),
    "modeling_sam3_tracker_video.Sam3TrackerVideoFeedForward": ("proj_in", "proj_out"),
    "modeling_timesfm.TimesFmMLP": ("gate_proj", "down_proj"),
}
# Classes whose first matrix holds the gate in its first half of rows and up in its second.
HALVES: Mapping[str, tuple[str, str]] = {
    "modeling_dia.DiaMLP": ("gate_up_proj", "down_proj"),
    "modeling_dots3_note.Dots3NoteAudioMLP": ("gate_up_proj", "down_proj"),
    "modeling_glm.GlmMLP": ("gate_up_proj", "down_proj"),
    "modeling_glm4.Glm4MLP": ("gate_up_proj", "down_proj"),
    "modeling_glm4v.Glm4vTextMLP": ("gate_up_proj", "down_proj"),
    "modeling_glm_image.GlmImageTextMLP": ("gate_up_proj", "down_proj"),
    "modeling_glm_ocr.GlmOcrTextMLP": ("gate_up_proj", "down_proj"),
    "modeling_granitemoe_swa.GraniteMoeSWAMLP": ("input_linear", "output_linear"),
    "modeling_granitemoehybrid.GraniteMoeHybridMLP": ("input_linear", "output_linear"),
    "modeling_granitemoeshared.GraniteMoeSharedMLP": ("input_linear", "output_linear"),
    "modeling_kyutai_speech_to_text.KyutaiSpeechToTextGatingMLP": ("fc1", "fc2"),
    "modeling_minimax_m3_vl.MiniMaxM3VLDenseMLP": ("gate_up_proj", "down_proj"),
    "modeling_modernbert.ModernBertMLP": ("Wi", "Wo"),
    "modeling_modernbert_decoder.ModernBertDecoderMLP": ("Wi", "Wo"),
    "modeling_moshi.MoshiGatingMLP": ("fc1", "fc2"),
    "modeling_phi3.Phi3MLP": ("gate_up_proj", "down_proj"),
    "modeling_phi4_multimodal.Phi4MultimodalMLP": ("gate_up_proj", "down_proj"),
    "modeling_zamba2.Zamba2MLP": ("gate_up_proj", "down_proj"),
}
# Those that hold up first.
UP_FIRST: Mapping[str, tuple[str, str]] = {
    "modeling_moonshine.MoonshineDecoderMLP": ("fc1", "fc2"),
    "modeling_moonshine_streaming.MoonshineStreamingDecoderMLP": ("fc1", "fc2"),
    "modeling_phi4_multimodal.Phi4MultimodalAudioMLP": ("gate_up_proj", "down_proj"),
}
# The block of diffusers: what the first matrix is in tells whether it holds a gate, after up.
DIFFUSERS = "attention.FeedForward"
DIFFUSERS_NAMES = ("net.0.proj", "net.2")
DIFFUSERS_GATED = frozenset({"activations.GEGLU", "activations.SwiGLU"})
DIFFUSERS_PLAIN = frozenset(
    {"activations.GELU", "activations.ApproximateGELU", "activations.LinearActivation"}
)
_CONVOLUTION = "a convolution over each channel stands before the activation"
# Classes whose further matrices were looked at, and what there is to know about them.
UNDERSTOOD: Mapping[str, str] = {
    "modeling_glpn.GLPNMixFFN": _CONVOLUTION,
    "modeling_lilt.LiltLayer": "layout_intermediate and layout_output are left alone",
    "modeling_mobilebert.MobileBertLayer": "bottlenecks are left alone",
    "modeling_pvt_v2.PvtV2ConvFeedForwardNetwork": _CONVOLUTION,
    "modeling_segformer.SegformerMixMLP": _CONVOLUTION,
    "modeling_timesformer.TimesformerLayer": "the layer after attention over time is left alone",
    "modeling_xmod.XmodLayer": "adapters of languages are left alone",
    "modeling_zamba2.Zamba2MLP": "low-rank adapters on the shared block are left alone",
}
# Classes of which a layer has several, one after the other.
IN_A_ROW = frozenset(
    {
        "modeling_albert.AlbertLayer",
        "modeling_longcat_flash.LongcatFlashMLP",
        "modeling_mobilebert.FFNLayer",
    }
)
