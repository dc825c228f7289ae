"""How far two ways of computing the same model drift apart: per op, per layer, per generated token."""
