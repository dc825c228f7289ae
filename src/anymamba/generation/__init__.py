"""From a prompt to text: prefill, then one token after another from a state of constant size."""
