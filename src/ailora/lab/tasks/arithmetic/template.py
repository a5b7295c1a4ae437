"""How a problem is put to a decoder: Alpaca's prompt, as LLM-Adapters uses it."""

from __future__ import annotations

# The instruction sentence and the headings are the format's own. LLM-Adapters indents all lines
# after the first by 16 spaces, by the layout of its source code; here they are not.
TEMPLATE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{source}\n\n### Response:\n"
)
# A record's input follows its instruction. The format words the first sentence otherwise then; a
# task has one template, and arithmetic records have no input.
WITH_INPUT = "{instruction}\n\n### Input:\n{input}"
