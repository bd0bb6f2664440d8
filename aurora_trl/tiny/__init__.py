"""The published architectures with small numbers: what the demo and the tests train.

It may import `generation`, `models` and `data`; no trainer needs it.
"""
