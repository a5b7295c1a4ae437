"""What may be done with the files of ``ailora init``, and what not: written beside them."""

from __future__ import annotations

_FOLDED = """
## What to train with these files

`{residual}` is W - B A in the weights that the adapter adapts, and no model by itself: the adapter makes it
`{original}` again.

| training | with these files |
|---|---|
| SFT, continued pre-training, ORPO, SimPO, reward models | yes: train the adapter on `{residual}` |
| DPO, IPO, KTO, PPO, GRPO with a KL term | only with `{original}` named as the reference (TRL: `ref_model=`, LLaMA-Factory: `ref_model:`), or this adapter as it is now (ms-swift: `--ref_adapters`) |
| the same where the trainer takes no such reference (axolotl) | no: its reference is W - B A (first DPO loss 0.74, say, instead of 0.693), or it starts an adapter of its own on W - B A; use `ailora init --anchored` |
| another adapter on `{residual}`; a server; quantising `{residual}` | no: export first |

Afterwards `ailora export TRAINED --folded-base --out PLAIN` makes a plain LoRA of `{original}`.
"""  # noqa: E501

_ANCHORED = """
## What to train with these files

The adapter has rank 2r on the untouched `{original}`. Half of it is the anchor, which is not to be trained.

| training | with these files |
|---|---|
| through `ailora.load_adapter(model, folder, is_trainable=True)`, then any trainer in Python | yes: as `ailora.get_peft_model` |
| a trainer that loads the folder itself (LLaMA-Factory, axolotl, ms-swift) | it trains the anchor too, and nothing in the files can keep it from that: a plain LoRA of rank 2r that starts in these directions. Its function is what it trained, and its reference in DPO or KTO is `{original}` |
| a server | yes, once trained: `ailora export TRAINED --out SERVED` |
"""  # noqa: E501


def folded_uses(original: str, residual: str) -> str:
    """For the adapter and the residual model of a folded start."""
    return _FOLDED.format(original=original, residual=residual)


def anchored_uses(original: str) -> str:
    """For an anchored adapter."""
    return _ANCHORED.format(original=original)
