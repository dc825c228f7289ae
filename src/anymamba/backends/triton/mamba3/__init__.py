"""Mamba-3 on Triton: scan.py launches, plan.py shares out, forward.py, backward.py, backward_walks.py compute with tokens.py."""
