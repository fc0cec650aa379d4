"""Kernels in C for processors with AVX2, AVX-512 or NEON: attention, LoRA, and what lies between linear layers."""
