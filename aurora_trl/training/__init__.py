"""Trainers, losses, rewards and the pipeline that chains them."""
