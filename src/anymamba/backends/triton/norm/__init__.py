"""Normalisation of rows, plain and gated."""
