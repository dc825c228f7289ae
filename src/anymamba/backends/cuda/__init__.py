"""CUDA C++ for NVIDIA cards, compiled when it is first used by NVRTC, which PyTorch's CUDA wheels bring along."""
