"""Whether what a chain stands on can be used: headers of checkpoints, some media of every split, annotators' keys."""

import argparse
from pathlib import Path

from ..annotation import get_annotator
from ..data import find_source
from ..data.validation import find_problems
from ..errors import DataError
from ..models import AuroraModel
from ..models.checkpoints.own_files import check_checkpoint, find_weight_files, read_header
from ..models.checkpoints.weight_files import read_config, read_torch_file
from ..models.mask_decoders.published import sam_config

# Rows of a split whose media are looked at, evenly over it.
_SAMPLED_ROWS = 24


def checkpoint_problem(path: str) -> str | None:
    """
    What is wrong with a checkpoint on disk, by its headers; None where all is well.

    Args:
        path (`str`): a folder of ours or of a published model, or a `.pth` file of segment-anything.
    """
    place = Path(path)
    try:
        if place.is_file():
            sam_config(read_torch_file(place), place)
        elif (place / "aurora_processor.json").is_file() and (place / "config.json").is_file():
            check_checkpoint(AuroraModel, path)
        elif (place / "config.json").is_file():
            read_config(place)
            for file in find_weight_files(path):
                read_header(file)
        elif not (place / "adapter_config.json").is_file():
            return f"{path}: it holds no config.json; name the folder of a checkpoint"
    except (DataError, ValueError, OSError) as error:
        return str(error)
    return None


def media_problems(path: str, dataset_format: str | None, subset: str | None) -> list[str]:
    """
    What is wrong with a dataset: every split is loaded, and some rows' files are looked at in each.

    Args:
        path (`str`): a folder or file that is there.
        dataset_format (`str`, *optional*), subset (`str`, *optional*): as a recipe names them.

    Returns:
        `list[str]`: at most one line for each split.
    """
    found = []
    try:
        source = find_source(path, dataset_format, subset)
        splits = source.splits()
    except DataError as error:
        return [str(error)]
    for split in splits:
        try:
            rows = source.load(split)
            step = max(1, len(rows) // _SAMPLED_ROWS)
            sampled = rows.select(range(0, len(rows), step)).to_list()
            problems = find_problems(sampled, thorough=False)
        except DataError as error:
            found.append(str(error))
            continue
        if problems:
            bad = len({number for problem in problems for number in problem.rows})
            found.append(
                f"{path}, {split}: {bad} of {len(sampled)} rows that were looked at can not be read; the first: "
                f"{problems[0].text}; `aurora check-data {path}` lists all"
            )
    return found


def annotator_problem(arguments: argparse.Namespace) -> str | None:
    """
    What an annotator lacks: its package, its key, a part of its name; None where all is well. Nothing is asked.

    Args:
        arguments (`argparse.Namespace`): of `aurora annotate` or `aurora correct`.
    """
    spec = arguments.annotator
    if spec is None or spec.startswith(("synthetic:", "qwen-omni:")):
        return None  # a world is a folder like any other; a local model is loaded when it is needed
    try:
        get_annotator(spec, base_url=arguments.base_url, key_variable=arguments.key_variable)
    except (DataError, ValueError) as error:
        return str(error)
    return None
