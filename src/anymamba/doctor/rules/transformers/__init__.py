"""transformers: warnings and versions."""
