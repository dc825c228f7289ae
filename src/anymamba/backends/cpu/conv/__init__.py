"""The causal convolution: whole sequences, and one token at a time."""
