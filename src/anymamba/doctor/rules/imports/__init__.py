"""Installed, and fails when imported."""
