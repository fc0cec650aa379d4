"""Kernels in C for processors with AVX-512 and BF16: attention, LoRA, and what lies between linear layers."""
