"""Rows to batches, and batches to answers: clips read once, text generated, masks drawn and written.

It may import `models` and `data`. Training, evaluation, annotation and the commands stand on it.
"""
