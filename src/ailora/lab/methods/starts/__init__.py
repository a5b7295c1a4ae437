"""PEFT's other starts of a LoRA, beyond the paper, as methods on q and v."""
