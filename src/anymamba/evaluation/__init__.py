"""How good is a model: perplexity and bits per byte of a text (perplexity.py), benchmark tasks through lm-eval (harness.py)."""
