"""Datasets as they lie on disk or on the Hub: one file per format, and the registry that recognises them.

It may import the row's schema, and masks in `data/media`.
"""
