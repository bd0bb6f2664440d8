"""Datasets of reasoning segmentation: one row is one reference about one clip."""

from .jsonl import load_json, save_json
from .refavs import load_refavs
from .schema import COLUMNS, FEATURES, DataError

__all__ = ["COLUMNS", "FEATURES", "DataError", "load_json", "load_refavs", "save_json"]
