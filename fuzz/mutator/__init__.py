"""Mutants of the CUDA kernels, and how many of them the judge kills.

`tokens` reads CUDA text, `operators` change it, `mutants` names and samples the
changes; `cases` are what they meet, `survey` finds which of them launches which kernel,
`trial` judges one mutant in a process that may die, `report` keeps the results.
`python -m fuzz.mutator --help`.
"""
