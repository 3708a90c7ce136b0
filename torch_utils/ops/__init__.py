"""Operators: each has a PyTorch reference (.py), which defines it, and may have a kernel.

Kernels for CUDA are .h, .cpp and .cu files, those for CPUs .cpp files; `build` compiles both.

Shapes are N,C,H,W (batch, channels, height, width); O is output channels, kh,kw the size of a kernel or filter.
Layers with parameters are in training/networks.
"""
