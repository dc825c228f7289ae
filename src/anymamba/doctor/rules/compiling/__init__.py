"""Compilers and headers of a build on Linux."""
