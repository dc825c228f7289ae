"""The GPU and its driver, as torch sees them."""
