"""Kernels in C for processors with AVX-512 and BF16: attention, and what stands between the products of a layer."""
