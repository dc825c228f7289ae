"""nvcc: missing, of another version, or for another card."""
