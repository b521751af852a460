"""How good the judge is: mutants killed, by what, at which size, and false alarms.

A score is a document of parts, each with the command that made it: `matrix` (which
property kills which mutant of the gallery), `power` (the smallest bug that is seen),
`honest` (false alarms among honest ports), `rules` (what other suites' comparisons say
of the same outputs) and `cuda` (mutants of our CUDA sources, from `fuzz.mutator`).
"""
