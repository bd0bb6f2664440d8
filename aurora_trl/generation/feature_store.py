"""What frozen models made of clips, on disk: one file per feature, named after all that it was made from."""

import json
import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..data.media.loading import measure_sound_seconds, split_moment, taken_frames
from ..data.schema import Row, annotated_frames
from ..disk import written_whole
from ..errors import DataError

logger = logging.getLogger(__name__)

# Part of every key: raise it where the same files and weights give another feature than before.
FORMAT = 3
_NAME = "feature"
_CHECKSUM = "xxh3_128"


def content_key(*parts: Any) -> str:
    """A key for a feature that is made from these parts, each of which JSON can hold."""
    return xxhash.xxh3_128_hexdigest(json.dumps([FORMAT, *parts], sort_keys=True).encode())


def tensor_digest(value: torch.Tensor) -> str:
    """Digest of a tensor's bytes."""
    values: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(values)


def file_digest(path: str | Path) -> str:
    """
    Digest of a file's bytes.

    Raises:
        `DataError`: names a file that can not be read.
    """
    digest = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None
    return digest.hexdigest()


def clip_digest(row: Row, num_frames: int, *, sound: bool, times: bool = False) -> str:
    """
    Digest of what a model with `num_frames` frames sees, and hears, of a row's clip: the bytes of the files.

    Args:
        row (`dict`): a dataset row.
        num_frames (`int`): frames that are taken of a clip; the files of others are not read.
        sound (`bool`): whether the sound counts.
        times (`bool`, *optional*, defaults to `False`): whether it counts when frames are shown, as the row says it:
            images stand evenly in their sound.

    Returns:
        `str`: hexadecimal.

    Raises:
        `DataError`: names a file that can not be read.
    """
    digests: dict[str, str] = {}  # many frames may be moments of one video, whose track is the sound

    def of_file(path: str) -> str:
        if path not in digests:
            digests[path] = file_digest(path)
        return digests[path]

    parts: list[Any] = [num_frames]
    taken = taken_frames(row, num_frames) if row.get("frames") or annotated_frames(row) else []
    if row.get("frames"):
        for path, seconds in (split_moment(row["frames"][number]) for number in taken):
            parts.append((of_file(path), seconds))
        parts += [(None, None)] * (num_frames - len(taken))
    else:
        parts += [of_file(row["video"]), *taken]
    source = row.get("audio") or row.get("video")
    if sound and source:
        parts.append(of_file(source))
    if times:
        parts.append(measure_sound_seconds(row))
    return content_key("clip", parts)


class FeatureStore:
    """
    Tensors in a folder. Any number of processes may read and write it at once: a file appears whole, or not at all.

    Args:
        folder (`str` or `Path`): made with the first feature.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def file(self, key: str) -> Path:
        """Where the feature of a key is, or would be."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> torch.Tensor | None:
        """The feature of a key; None, and a warning where its file is damaged, where it has to be made."""
        if not self.file(key).exists():
            return None
        try:
            return self.read(key)
        except DataError as error:
            logger.warning(f"{error}; its feature is made anew")
            return None

    def read(self, key: str) -> torch.Tensor:
        """
        The feature of a key, as it was computed.

        Raises:
            `DataError`: names the file that is missing or damaged.
        """
        file = self.file(key)
        try:
            with safe_open(file, framework="pt") as content:
                feature = content.get_tensor(_NAME)
                checksum = (content.metadata() or {}).get(_CHECKSUM)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file}: not a whole feature file: {error}") from None
        if checksum != tensor_digest(feature):
            raise DataError(f"{file}: not the feature that was written, its checksum differs")
        return feature

    def write(self, key: str, feature: torch.Tensor) -> int:
        """
        Keep a feature; where there is a file already, it is replaced.

        Returns:
            `int`: bytes on disk.
        """
        file = self.file(key)
        feature = feature.detach().cpu().contiguous()
        content = save({_NAME: feature}, metadata={_CHECKSUM: tensor_digest(feature)})
        with written_whole(file, "wb", sync=False) as stream:  # it has a checksum
            stream.write(content)
        return len(content)


@dataclass
class MaskFeatures:
    """
    The mask encoder's features of the clips of a run, for its loading processes.

    Attributes:
        store (`FeatureStore`): where they are.
        keys (`dict`): by `clip_key`; none but these are asked for.
    """

    store: FeatureStore
    keys: dict[Hashable, str] = field(default_factory=dict)

    def read(self, clip: Hashable) -> torch.Tensor:
        """
        The features `(T, E, h, w)` of a clip.

        Raises:
            `DataError`: where they are not kept, or their file was damaged since the run began.
        """
        if clip not in self.keys:
            raise DataError(
                f"{self.store.folder}: it has no features of a clip that is asked for, {clip}; call the trainer's "
                "`keep_features` with the dataset that it is from"
            )
        try:
            return self.store.read(self.keys[clip])
        except DataError as error:
            raise DataError(
                f"{error}; start again with `--resume_from_checkpoint true`, and it is made anew"
            ) from None
