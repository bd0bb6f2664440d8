"""What frozen models make of clips, made once and kept on disk between epochs, runs and phases.

It may import what `training` may, and no trainer: the trainers import it.
"""
