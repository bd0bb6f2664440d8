"""The two trainers, their configs, losses and rewards, and what is kept on disk for them.

It may import `evaluation`, for the IoU, and what stands below; the chain and the recipes stand above.
"""
