"""Datasets as they lie on disk or on the Hub: one file per format, and the registry that recognises them.

It may import the schema of a row, and masks.
"""
