"""Windows: Microsoft's compiler, paths, Triton."""
