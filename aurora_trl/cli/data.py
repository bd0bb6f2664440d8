"""The sub-commands of `aurora` that write, check and export datasets."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..disk import naming
from .common import AddCommand, add_format, number, say, seed, whole


def add_data_commands(add: AddCommand) -> None:
    """
    Add the sub-commands to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add("synth", _synth, "Write a synthetic world in the Ref-AVS layout.")
    command.add_argument("root", metavar="DIR", help="new folder")
    command.add_argument("--clips", type=whole(1), default=200, help="clips in all splits together (default: 200)")
    command.add_argument("--seed", type=seed, default=0, help="of everything drawn at random (default: 0)")
    command.add_argument(
        "--image-size", type=whole(1), default=128, help="side of the frames in pixels (default: 128)"
    )
    command.add_argument("--references-per-clip", type=whole(1), help="of the layout of Ref-AVS (default: 4)")
    command.add_argument(
        "--layout",
        default="refavs",
        choices=["refavs", "s4"],
        help="of Ref-AVS, or of AVSBench's S4: clips in which one object sounds, without references (default: refavs)",
    )

    command = add("check-data", _check_data, "Read a dataset as training would, and list all that is wrong with it.")
    command.add_argument("path", metavar="DATA", help="a dataset's folder or file")
    add_format(command)
    command.add_argument("--splits", nargs="+", help="(default: all)")
    command.add_argument("--quick", action="store_true", help="look at headers and ends of files, decode none")
    command.add_argument("--workers", type=whole(1), help="threads that read (default: as many as there are cores)")
    command.add_argument(
        "--min-sound-seconds", type=number(0), default=1.0, help="a shorter sound is wrong (default: 1)"
    )
    command.add_argument("--num-frames", type=whole(1), default=10, help="frames that the model takes (default: 10)")

    command = add("export", _export, "Write a dataset with its media to Parquet files, for the Hub.")
    command.add_argument("path", metavar="DATA", help="a dataset's folder or file")
    add_format(command)
    command.add_argument("--splits", nargs="+", help="(default: all)")
    command.add_argument("--output", required=True, help="new folder")


def _synth(arguments: argparse.Namespace) -> None:
    from ..data.synthetic import write_s4_world, write_world

    if arguments.layout == "s4" and arguments.references_per_clip is not None:
        raise ValueError("--references-per-clip: the clips of S4 have no references; leave it out")
    if arguments.layout == "s4":
        with naming(arguments.root):
            write_s4_world(arguments.root, clips=arguments.clips, seed=arguments.seed, image_size=arguments.image_size)
        say(f"{arguments.root}: {arguments.clips} synthetic clips in the layout of S4")
        return
    with naming(arguments.root):  # nothing is left of it
        root = write_world(
            arguments.root,
            clips=arguments.clips,
            seed=arguments.seed,
            image_size=arguments.image_size,
            references_per_clip=arguments.references_per_clip or 4,
        )
    say(f"{root}: a synthetic world of {arguments.clips} clips")


def _check_data(arguments: argparse.Namespace) -> None:
    from ..data import DataError, find_source
    from ..data.validation import (
        Problem,
        check_classes,
        describe_few_annotated,
        describe_short_clips,
        find_problems,
        summarize,
    )
    from ..progress import Progress

    source = find_source(arguments.path, arguments.format, arguments.subset, arguments.objects)
    splits, problems = {}, {}
    for split in arguments.splits or source.splits():
        try:
            splits[split] = source.load(split)
        except DataError as error:
            problems[split] = [Problem("row", str(error), ())]
    if not splits:
        raise DataError(next(iter(problems.values()))[0].text)
    progress = Progress(sum(map(len, splits.values())), unit="rows")
    for split, rows in splits.items():
        problems[split] = find_problems(
            rows,
            thorough=not arguments.quick,
            workers=arguments.workers,
            min_sound_seconds=arguments.min_sound_seconds,
            on_clip=partial(progress.step, split),
        )
    if source.format == "refavs" and "train" in splits:
        for split, rows in splits.items():
            known = _known_classes(source.path, split, splits["train"]["class_name"])
            problems[split] += check_classes(split, rows["class_name"], known)
    for found in problems.values():
        for problem in found:
            say(problem.text)
    for split, rows in splits.items():
        few = describe_few_annotated(rows.select_columns(["masks"]), arguments.num_frames)
        short = describe_short_clips(rows.select_columns(["frames", "video"]), arguments.num_frames)
        for note in (short, few):
            if note is not None:
                say(f"{split}: {note}")
    for split, found in problems.items():
        say(f"{split}: {summarize(splits[split], found) if split in splits else 'it can not be loaded'}")
    total = sum(map(len, problems.values()))
    count = sum(map(len, splits.values()))
    if total:
        raise DataError(f"{arguments.path}: {total} problems in {count} rows")
    say(f"{arguments.path}: {count} rows, all is well")


def _known_classes(root: str, split: str, trained: Sequence[str]) -> set[str]:
    """The classes that a split of Ref-AVS may have: those of training, and in the unseen one those that it adds."""
    from ..data.formats.refavs import UNSEEN_CLASSES, UNSEEN_SPLIT

    if (Path(root) / "world.json").is_file():
        # A small synthetic world need not show all of its classes in training.
        from ..data.synthetic import scene

        return set(scene.UNSEEN_CLASSES if split == UNSEEN_SPLIT else scene.SEEN_CLASSES)
    return {*trained, *(UNSEEN_CLASSES if split == UNSEEN_SPLIT else ())}


def _export(arguments: argparse.Namespace) -> None:
    from ..data import find_source, save_parquet
    from ..data.validation import require_valid

    source = find_source(arguments.path, arguments.format, arguments.subset, arguments.objects)
    splits = {split: source.load(split) for split in arguments.splits or source.splits()}
    for rows in splits.values():
        require_valid(rows)
    folder = save_parquet(splits, arguments.output)
    say(f"{folder}: {', '.join(f'{split} {len(rows)} rows' for split, rows in splits.items())}")
