"""One token through all layers: a sequence of kernels that is laid out once and run without Python between them."""
