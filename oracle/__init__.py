"""The specification of a Mixture-of-Experts layer in plain PyTorch.

Imports torch and the standard library only. Start with `oracle.spec` (what a layer is),
`oracle.numerics` (how an implementation may round) and `oracle.moe` (the whole layer).
"""
