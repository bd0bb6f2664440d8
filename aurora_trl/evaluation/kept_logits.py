"""The mask logits of answers on disk, so that another protocol can score them without the model."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..data.schema import Row
from ..disk import put_in_place, written_whole
from ..errors import DataError
from ..generation.answer import Answer
from ..models.mask_geometry import MaskGeometry
from ..text_files import read_json

LOGITS_FOLDER = "logits"
_SETTINGS_FILE = "geometry.json"
_LOGITS = "mask_logits"


class KeptLogits:
    """
    A folder with one file for each answer that has a mask: the decoder's logits as they were, bit by bit, compressed.

    An answer takes about `frames x h x w x 4` bytes before it is compressed, with `h` and `w` a quarter of the side of
    the mask decoder's input: 125 kB at 224 pixels, 2.6 MB at 1024; half of it where the model is in bf16.

    Args:
        folder (`Path`): where the files lie.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, split: str, swap: str | None, number: int, answer: Answer) -> None:
        """
        Write an answer's logits.

        Args:
            split (`str`), swap (`str` or `None`): the run of the evaluation.
            number (`int`): the row's number in the split.
            answer (`Answer`): from the model.
        """
        path = self._path(split, swap, number)
        if answer.decoded_logits is None or answer.mask_logits is None:
            path.unlink(missing_ok=True)  # of an earlier run with other settings
            return
        logits = answer.decoded_logits.contiguous()
        # First bytes beside first bytes: signs and exponents repeat, and compress.
        planes = logits.view(torch.uint8).view(-1, logits.element_size()).T.contiguous()
        shapes = {"shape": torch.tensor(logits.shape), "size": torch.tensor(answer.mask_logits.shape[1:])}
        content = save({_LOGITS: planes, **shapes}, {"dtype": str(logits.dtype).removeprefix("torch.")})
        with written_whole(path, "wb", sync=False) as file:
            file.write(zlib.compress(content, 1))

    def load(self, split: str, swap: str | None, number: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """
        Read an answer's logits.

        Returns:
            `tuple`: logits `(T, h, w)` as they came from the decoder, and the height and width of the answer's masks.

        Raises:
            `DataError`: where the file is not there, or damaged.
        """
        path = self._path(split, swap, number)
        if not path.is_file():
            raise DataError(f"{path}: no such file; evaluate that checkpoint again, without --no-logits")
        try:
            content = zlib.decompress(path.read_bytes())
            tensors = load(content)
            size = int.from_bytes(content[:8], "little")
            dtype = json.loads(content[8 : 8 + size])["__metadata__"]["dtype"]
            planes = tensors[_LOGITS].T.contiguous().flatten()
            height, width = tensors["size"].tolist()
            return planes.view(getattr(torch, dtype)).view(*tensors["shape"].tolist()), (height, width)
        except (zlib.error, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}: {error}); evaluate that checkpoint again"
            ) from None

    def _path(self, split: str, swap: str | None, number: int) -> Path:
        return self.folder / (split if swap is None else f"{split}+{swap}") / f"{number:06d}.z"

    def finish(
        self,
        target: Path,
        records: Iterable[dict[str, Any]],
        *,
        image_size: int,
        num_frames: int,
        keep_aspect_ratio: bool,
    ) -> None:
        """
        Put the folder in its place when all answers are there.

        Args:
            target (`Path`): the evaluation's folder.
            records (`Iterable[dict]`): the lines of `answers.jsonl`; what belongs to none goes, such as that of a run
                which was cut and had other settings.
            image_size (`int`), num_frames (`int`), keep_aspect_ratio (`bool`): the processor's.
        """
        wanted = {self._path(record["split"], record["swap"], record["row"]) for record in records}
        for path in self.folder.rglob("*.z"):
            if path not in wanted:
                path.unlink()
        settings = {"image_size": image_size, "keep_aspect_ratio": keep_aspect_ratio, "num_frames": num_frames}
        with written_whole(self.folder / _SETTINGS_FILE) as file:
            json.dump(settings, file)
        put_in_place(self.folder, target / LOGITS_FOLDER)


class AnswerReader:
    """
    Answers of an evaluation as they came from the model, without it.

    Args:
        folder (`Path`): the evaluation's.

    Raises:
        `DataError`: where the evaluation has kept no logits.
    """

    def __init__(self, folder: Path):
        self._kept = KeptLogits(folder / LOGITS_FOLDER)
        file = self._kept.folder / _SETTINGS_FILE
        if not file.is_file():
            raise DataError(f"{folder}: keeps no logits; evaluate that checkpoint again, without --no-logits")
        settings = read_json(file)
        try:
            self.num_frames = int(settings["num_frames"])
            image_size, keep = int(settings["image_size"]), bool(settings["keep_aspect_ratio"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{file}: not what an evaluation wrote; evaluate that checkpoint again") from None
        self._geometry = MaskGeometry(image_size, 0, (), (), keep)

    def read(self, record: dict[str, Any], row: Row) -> Answer:
        """
        An answer.

        Args:
            record (`dict`): its line of `answers.jsonl`.
            row (`dict`): its dataset row.

        Raises:
            `DataError`: where its file is damaged or lost.
        """
        answer = Answer(row, record["completion"], None, record["num_tokens"], record["cut"])
        if record["has_seg"]:
            logits, size = self._kept.load(record["split"], record["swap"], record["row"])
            # A frame of this size is the answer's own, which need not be the row's: the clip may be swapped.
            answer.decoded_logits, answer.mask_logits = logits, self._geometry.restore_masks(logits, size)
        return answer
