"""The causal convolution, for either layout, and one token at a time."""
