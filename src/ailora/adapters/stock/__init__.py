"""All that touches the insides of PEFT."""
