"""Writes the synthetic world to disk in the official Ref-AVS layout."""

import csv
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ...errors import DataError
from ...text_files import parse_json
from .drawing import draw_clip
from .references import Reference, sample_null_references, sample_references
from .scene import UNSEEN_CLASSES, sample_scene
from .sound import SAMPLING_RATE, render_sound

FORMAT_VERSION = 2  # part of the parameters: a world that an older version wrote is not taken for this one's
SPLITS = ("train", "val", "test_s", "test_u", "test_n")
_SHARES = {"val": 0.03, "test_s": 0.08, "test_u": 0.05, "test_n": 0.04}
_MIN_TEST_CLIPS = 8  # two batches of the official protocol, which scores 4 videos at a time
_FULL_WORLD = 40  # from this many clips on, each test split has that many
_NULL_SHARE = 0.03  # of the training rows
_SILENT_SHARE = 0.25  # of the clips of test_n: only there does "the object that sounds" match nothing
_JPEG_QUALITY = 90


def write_world(
    root: str | Path,
    *,
    clips: int,
    seed: int = 0,
    image_size: int = 128,
    references_per_clip: int = 4,
    workers: int = 2,
) -> Path:
    """
    Write a synthetic world in the official Ref-AVS layout, with the truth of every clip in `world.json`.

    The files depend on the parameters alone, byte for byte. The folder appears when it is complete; one that holds the
    same world already is left as it is.

    Args:
        root (`str` or `Path`): folder, new or empty.
        clips (`int`): number of clips in all splits together, at least 5.
        seed (`int`, *optional*, defaults to 0): of everything drawn at random, at least 0.
        image_size (`int`, *optional*, defaults to 128): side of the frames, in pixels, at least 48.
        references_per_clip (`int`, *optional*, defaults to 4): at least 1; a clip that offers fewer has fewer.
        workers (`int`, *optional*, defaults to 2): threads that write; they change nothing but the time.

    Returns:
        `Path`: the folder.

    Raises:
        `DataError`: where the folder holds something else, or a parameter is out of range.
    """
    root = Path(root)
    parameters = {
        "version": FORMAT_VERSION,
        "clips": clips,
        "seed": seed,
        "image_size": image_size,
        "references_per_clip": references_per_clip,
    }
    lowest = {"clips": len(SPLITS), "seed": 0, "image_size": 48, "references_per_clip": 1, "workers": 1}
    for name, value in {**parameters, "workers": workers}.items():
        if value < lowest.get(name, value):
            raise DataError(f"synthetic world: {name} is {value}; give at least {lowest[name]}")
    if _is_written(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        splits = split_clips(clips, seed)
        with ThreadPoolExecutor(workers) as pool:
            written = list(pool.map(lambda index: _write_clip(folder, index, splits[index], parameters), range(clips)))
        _write_tables(folder, parameters, dict(written))
        folder.chmod(0o755)  # `mkdtemp` makes it private
        # An empty folder is replaced, one that was filled meanwhile is an error.
        os.replace(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return root


def split_clips(clips: int, seed: int) -> list[str]:
    """
    The split of each clip.

    Args:
        clips (`int`): number of clips.
        seed (`int`): of the shuffle.

    Returns:
        `list[str]`: for each clip `train`, `val`, `test_s`, `test_u` or `test_n`.
    """
    names: list[str] = []
    for split, share in _SHARES.items():
        least = _MIN_TEST_CLIPS if clips >= _FULL_WORLD and split != "val" else 1
        names += [split] * max(least, round(share * clips))
    names += ["train"] * (clips - len(names))
    return [names[i] for i in np.random.default_rng([seed, 0]).permutation(clips)]


def read_world(root: str | Path) -> dict[str, Any]:
    """
    Read the truth of a world.

    Args:
        root (`str` or `Path`): folder that `write_world` wrote.

    Returns:
        `dict`: `parameters`, and `clips` by name with `split`, `objects` and `references`.

    Raises:
        `DataError`: where the folder holds no synthetic world.
    """
    path = Path(root) / "world.json"
    try:
        world = parse_json(path.read_text(encoding="utf-8"))
        if {"parameters", "clips"} <= world.keys():
            return world
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: no synthetic world ({error}); write one with `aurora synth`") from error
    raise DataError(f"{path}: it lacks `parameters` or `clips`; write the world again with `aurora synth`")


def _is_written(root: Path, parameters: dict[str, int]) -> bool:
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"{root}: it is a file; name a new folder for the synthetic world")
    if not any(root.iterdir()):
        return False
    if not (root / "world.json").is_file():
        raise DataError(f"{root}: the folder is not empty and holds no synthetic world; name a new folder")
    found = read_world(root)["parameters"]
    changed = [f"{key}={found.get(key)}" for key, value in parameters.items() if found.get(key) != value]
    if changed:
        raise DataError(
            f"{root}: it holds another synthetic world ({', '.join(changed)}); remove it or name a new folder"
        )
    return True


def _write_clip(folder: Path, index: int, split: str, parameters: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """Write the media and masks of one clip, and return its name and its truth."""
    video = f"synth_{index:05d}"
    # A generator for each clip: neither the number of clips nor the order of the threads changes what it holds.
    rng = np.random.default_rng([parameters["seed"], 1, index])
    count = parameters["references_per_clip"]
    if split == "test_n":
        scene = sample_scene(rng, silent=bool(rng.random() < _SILENT_SHARE))
        references = sample_null_references(rng, scene.objects, count)
    else:
        scene = sample_scene(rng, unseen=split == "test_u")
        only = UNSEEN_CLASSES if split == "test_u" else None
        references = sample_references(rng, scene.objects, count, only_classes=only)
        # One null row for so many clips that they are this share of all rows.
        if split == "train" and rng.random() < _NULL_SHARE / (1 - _NULL_SHARE) * count:
            references += sample_null_references(rng, scene.objects, 1)
    frames, masks = draw_clip(scene, parameters["image_size"])
    media = folder / "media" / video
    (media / "frames").mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(media / "frames" / f"{i}.jpg", quality=_JPEG_QUALITY)
    soundfile.write(media / "audio.wav", render_sound(scene), SAMPLING_RATE, subtype="PCM_16")
    if any(reference.target == 0 for reference in references):
        # The official download keeps the media of null references under a name of their own.
        shutil.copytree(media, folder / "media" / f"null_c-{video}", copy_function=os.link)
    for number in sorted({reference.target for reference in references} - {0}):
        mask_folder = folder / "gt_mask" / video / f"fid_{number}"
        mask_folder.mkdir(parents=True)
        for i, mask in enumerate(masks[number]):
            Image.fromarray(mask).save(mask_folder / f"{i:05d}.png")
    names = {scene_object.number: scene_object.class_name for scene_object in scene.objects}
    rows = [
        {"uid": _uid(video, k, reference, names), **asdict(reference)} for k, reference in enumerate(references, 1)
    ]
    return video, {"split": split, "objects": [asdict(o) for o in scene.objects], "references": rows}


def _uid(video: str, k: int, reference: Reference, names: dict[int, str]) -> str:
    if reference.target == 0:
        return f"null_c-{video}_null_{k}"
    return f"{video}_{names[reference.target]}_{k}"


def _write_tables(folder: Path, parameters: dict[str, int], clips: dict[str, dict[str, Any]]) -> None:
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["vid", "uid", "split", "fid", "exp"])
        for video, clip in clips.items():
            for row in clip["references"]:
                table.writerow([video, row["uid"], clip["split"], row["target"], row["text"]])
    text = json.dumps({"parameters": parameters, "clips": clips}, indent=1)
    (folder / "world.json").write_text(text + "\n", encoding="utf-8")
