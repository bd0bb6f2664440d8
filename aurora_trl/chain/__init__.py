"""A chain of phases from one YAML: running and resuming it, and the dry run with its estimates.

It may import every room but the commands, whose parser is handed in.
"""
