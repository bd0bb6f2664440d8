"""A page in the browser: ask a checkpoint about a clip, and look through the answers of evaluations.

It may import every room but the commands. Gradio, an extra, is imported by the files that make pages alone.
"""
