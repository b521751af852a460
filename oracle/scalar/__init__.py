"""A second oracle: Python integers and fractions, one element at a time, no torch.

It shares no code with the rest of `oracle` and imports the standard library alone; it
was written from the definitions (OCP MX v1.0, IEEE 754, the models' papers), so that a
mistake of the first oracle has to be made twice to go unseen. Values are `Fraction`s
(floats only for -0.0, infinities and NaN), irrational ones certified enclosures
(`interval.Interval`). Descriptions (`Layer`, `Routing`, `Activation`, `BlockFormat`,
`Accumulator`) are read by attribute. Nothing here is meant to be fast.
"""
