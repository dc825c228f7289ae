"""To what weights are rounded; without torch, for the command line's help."""

WIDTHS = "int8", "int4"
