"""The paper's study: its published numbers, ours beside them, and whether a difference is one."""
