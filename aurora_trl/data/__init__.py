"""Datasets of reasoning segmentation: one row is one reference about one clip.

Their formats, their media and their checks, and a synthetic world. It may import `prompts` and `errors`; it knows no
model.
"""

from ..errors import DataError
from .formats.avsbench import load_avsbench
from .formats.jsonl import load_json, save_json
from .formats.mevis import load_mevis, load_revos
from .formats.omniavs import load_omniavs
from .formats.parquet import load_parquet, save_parquet
from .formats.reasonseg import load_reasonseg
from .formats.refavs import load_r2avsbench, load_refavs
from .formats.refcoco import load_refcoco
from .formats.refytvos import load_refdavis, load_refytvos
from .formats.registry import find_source
from .schema import COLUMNS, FEATURES

__all__ = [
    "COLUMNS",
    "FEATURES",
    "DataError",
    "find_source",
    "load_avsbench",
    "load_json",
    "load_mevis",
    "load_omniavs",
    "load_parquet",
    "load_r2avsbench",
    "load_reasonseg",
    "load_refavs",
    "load_refcoco",
    "load_refdavis",
    "load_refytvos",
    "load_revos",
    "save_json",
    "save_parquet",
]
