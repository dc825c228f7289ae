"""How kernels are written (emit), compiled (compile, target) and run on threads (threads)."""
