"""Kernels in C for processors with AVX2 or AVX-512: attention, LoRA, and what lies between linear layers."""
