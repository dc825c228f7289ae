"""GGUF files, the form in which llama.cpp has its models: read as they lie, and written."""
