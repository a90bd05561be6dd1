"""Honest selection: a policy is promoted on the validation split, its test split is read once, what came of it is kept.

`judge` is the gate, `promote` the gate and a bundle, `incumbents` and `validate` what was promoted.
"""
