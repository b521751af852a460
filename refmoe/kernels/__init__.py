"""CUDA kernels for every op of a port, run through CuPy on PyTorch tensors.

Nothing heavy is imported before an op is called: neither CuPy nor a compiler.
"""
