"""Nothing known matches."""
