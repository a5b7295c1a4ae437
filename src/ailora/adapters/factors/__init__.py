"""What stands in a stock layer where `lora_A` and `lora_B` have an `nn.Linear`."""
