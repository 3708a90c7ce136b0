"""Operators: each has a PyTorch reference (.py), which defines it, and may have a CUDA kernel (.h, .cpp, .cu).

Shapes are N,C,H,W (batch, channels, height, width); O is output channels, kh,kw the size of a kernel or filter.
Layers with parameters are in training/networks.
"""
