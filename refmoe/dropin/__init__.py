"""The kernels under other libraries' call signatures, to swap in and bisect.

Each function takes the arguments of the one it stands in for, in their layouts, and
raises NotImplementedError naming the argument that it has no kernel for.
"""
