"""Checkpoints: published weights read whole or refused, adapters, weights that ZeRO-3 has split, and the Hub.

It may import the models that it builds; of these, only the composite model knows adapters.
"""
