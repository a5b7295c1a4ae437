"""PEFT's own tests, run with stock LoRA and with anchored factors in LoRA's place."""
