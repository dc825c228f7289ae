"""Prebuilt wheels and package indexes."""
