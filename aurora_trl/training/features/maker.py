"""Makes the features of frozen models that are not on disk yet, clip by clip."""

import json
import shutil
import sys
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ...data.schema import HINTS, REFERENCE_MEDIA, Row, view_key
from ...errors import DataError
from ...generation.clip_loader import ClipLoader
from ...generation.collators import TeacherCollator
from ...generation.feature_store import FeatureStore, clip_digest, content_key, file_digest, tensor_digest
from ...models.checkpoints.zero3 import gathered
from ...models.modeling_aurora import AuroraModel
from ...models.processing_aurora import AuroraProcessor
from ...progress import Progress
from ...prompts import build_prompt, teacher_target

# References that the teacher reads at once; more of one clip come in several calls.
_ROWS_PER_CALL = 8
# Threads that read and check files before anything is computed.
_THREADS = 8
# What decides which frames are taken of a clip, too: those that are annotated.
_COLUMNS = (
    *("id", "reference", *REFERENCE_MEDIA, "class_name", "is_null"),
    *("frames", "video", "audio", "masks", *HINTS),
)
# Entries of a config that change nothing about what a model computes.
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def weights_key(module: nn.Module, without: nn.Module | None = None, **settings: Any) -> str:
    """
    A key for a model by its weights, its buffers and the settings that they do not show.

    Args:
        module (`nn.Module`): with whole weights, see [`~aurora_trl.models.checkpoints.zero3.gathered`].
        without (`nn.Module`, *optional*): a part whose weights do not count.
        **settings: that JSON can hold.

    Returns:
        `str`: hexadecimal.
    """
    left_out = set() if without is None else {id(value) for value in (*without.parameters(), *without.buffers())}
    digest = xxhash.xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if id(value) not in left_out:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} {tensor_digest(value)}".encode())
    return digest.hexdigest()


def mask_encoder_key(model: AuroraModel, processor: AuroraProcessor) -> str:
    """A key for what makes mask embeddings of a clip's files; what the decoder has learned is no part of it."""
    decoder = model.mask_decoder
    names = ("mask_image_size", "pixel_mean", "pixel_std", "keep_aspect_ratio", "num_frames")
    view = {name: getattr(processor, name) for name in names}
    return weights_key(
        decoder, decoder.trainable_modules()["mask_decoder"], config=_sizes(decoder.config.to_dict()), view=view
    )


def _sizes(config: Any) -> Any:
    """What of a config, and of those in it, changes what a model computes."""
    if not isinstance(config, dict):
        return config
    return {name: _sizes(value) for name, value in config.items() if name not in _INCIDENTAL}


def teacher_key(teacher: AuroraModel, processor: AuroraProcessor) -> str:
    """A key for what makes the teacher's features of a clip's files and a row's text."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return weights_key(teacher, files=[(str(path.relative_to(folder)), file_digest(path)) for path in files])


def teacher_row_key(row: Row, targets: str) -> Hashable:
    """What tells apart the rows that the teacher reads, within a run."""
    return (view_key(row), row["reference"], teacher_target(row, targets))


# Rows of clips, by `view_key` and `teacher_row_key`.
NewClips = dict[Hashable, dict[Hashable, dict[str, Any]]]


@dataclass
class KeptFeatures:
    """
    The features of a run.

    Attributes:
        mask_keys (`dict[Hashable, str]`): the key in the store of a clip's mask embeddings, by `view_key`.
        teacher (`dict[Hashable, torch.Tensor]`): the teacher's projected `[SEG]` feature `(E,)`, by `teacher_row_key`.
    """

    mask_keys: dict[Hashable, str] = field(default_factory=dict)
    teacher: dict[Hashable, torch.Tensor] = field(default_factory=dict)


@dataclass
class _ClipJob:
    """What has to be made of a clip: its mask embeddings where there is a key for them, and rows' features."""

    row: Row
    mask_key: str | None
    teacher_rows: list[tuple[str, dict[str, Any]]]  # with their keys in the store

    def chunks(self) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """Rows for one call of the teacher each."""
        for start in range(0, len(self.teacher_rows), _ROWS_PER_CALL):
            yield self.teacher_rows[start : start + _ROWS_PER_CALL]


class _JobInputs(TorchDataset[Any]):
    """Reads the inputs of jobs, in loading processes."""

    def __init__(self, jobs: list[_ClipJob], processor: AuroraProcessor, targets: str, share_prefix: bool):
        self.jobs = jobs
        self.loader = ClipLoader(processor, cache_clips=1)
        self.teacher_collator = TeacherCollator(self.loader, targets, share_prefix)

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> tuple[_ClipJob, torch.Tensor | None, list[dict[str, torch.Tensor]]]:
        job = self.jobs[index]
        self.loader.mask_inputs = job.mask_key is not None
        batches = [self.teacher_collator([row for _, row in chunk]) for chunk in job.chunks()]
        return job, self.loader.clip(job.row).get("mask_frames"), batches


def _as_is(value: Any) -> Any:
    return value


class FeatureMaker:
    """
    Finds which features of some datasets a store lacks, and makes them: each process those of its share of the clips.

    Args:
        folder (`str`): of the store; all processes see it.
        accelerator (`Accelerator`): the processes, their device and precision.
        processor (`AuroraProcessor`): of the models' inputs.
        model (`AuroraModel`, *optional*): whose mask encoder is run; None: no mask embeddings are asked for.
        teacher (`AuroraModel`, *optional*): whose `[SEG]` features are asked for.
        teacher_targets (`str`, *optional*, defaults to `"answer"`): what the teacher was trained on.
        share_prefix (`bool`, *optional*, defaults to `False`): whether the teacher reads a clip once for its rows.
        num_workers (`int`, *optional*, defaults to 0): loading processes.
    """

    def __init__(
        self,
        folder: str,
        accelerator: Accelerator,
        processor: AuroraProcessor,
        *,
        model: AuroraModel | None = None,
        teacher: AuroraModel | None = None,
        teacher_targets: str = "answer",
        share_prefix: bool = False,
        num_workers: int = 0,
    ):
        self.store = FeatureStore(folder)
        self.accelerator, self.processor = accelerator, processor
        self.model, self.teacher = model, teacher
        self.teacher_targets, self.share_prefix, self.num_workers = teacher_targets, share_prefix, num_workers

    def new_clips(self, datasets: Sequence[Dataset], kept: KeptFeatures) -> NewClips:
        """Clips of which something is not known yet; of each, the rows that the teacher reads, or any one."""
        clips: NewClips = {}
        for dataset in datasets:
            for row in dataset.select_columns([name for name in _COLUMNS if name in dataset.column_names]):
                if row.get("masks"):  # which frames have one is enough: run lengths of all rows take gigabytes
                    row["masks"] = [None if mask is None else "" for mask in row["masks"]]
                clip = view_key(row)
                key = None if self.teacher is None else teacher_row_key(row, self.teacher_targets)
                new_clip = self.model is not None and clip not in kept.mask_keys
                if new_clip or (self.teacher is not None and key not in kept.teacher):
                    clips.setdefault(clip, {}).setdefault(key, row)
        return clips

    @torch.no_grad()
    def add_features(self, clips: NewClips, kept: KeptFeatures) -> None:
        """
        Add the features of clips to `kept`. All processes call this, before a model is wrapped for training.

        Args:
            clips (`dict`): from `new_clips`, the same on all processes.
            kept (`KeptFeatures`): what is known already.

        Raises:
            `DataError`: names a file that can not be read, or the folder where it is too full or not one for all.
        """
        own = dict(list(clips.items())[self.accelerator.process_index :: self.accelerator.num_processes])
        decoder = None if self.model is None else self.model.mask_decoder
        modules = [module for module in (decoder, self.teacher) if module is not None]
        # Each process then runs them on clips of its own.
        with gathered((value for module in modules for value in module.parameters()), read_only=True):
            found, jobs = self._look_up(own)
            self._make(jobs, found)
        for clip, key in gather_object(list(found.mask_keys.items())):
            kept.mask_keys[clip] = key
        for row, feature in gather_object(list(found.teacher.items())):
            kept.teacher[row] = feature
        missing = next((key for key in kept.mask_keys.values() if not self.store.file(key).exists()), None)
        if missing is not None:
            raise DataError(
                f"{self.store.file(missing)}: one process made it and another does not see it; `feature_cache` has to "
                "be a folder that all processes share"
            )

    def _look_up(self, clips: NewClips) -> tuple[KeptFeatures, list[_ClipJob]]:
        """What the store has of clips, and what has to be made."""
        precision = str(self.accelerator.mixed_precision)
        encoder = None if self.model is None else mask_encoder_key(self.model, self.processor)
        teacher = None if self.teacher is None else teacher_key(self.teacher, self.processor)
        num_frames = self.processor.num_frames
        hears = self.processor.policy_processor.sampling_rate is not None
        found = KeptFeatures()

        def look_up(clip: Hashable, rows: dict[Hashable, dict[str, Any]]) -> _ClipJob:
            job = _ClipJob(next(iter(rows.values())), None, [])
            if encoder is not None:
                key = content_key("mask", encoder, precision, clip_digest(job.row, num_frames, sound=False))
                found.mask_keys[clip] = key
                job.mask_key = None if self.store.get(key) is not None else key
            if teacher is not None:
                digest = clip_digest(job.row, num_frames, sound=hears, times=True)
                asked = [file_digest(job.row[name]) for name in REFERENCE_MEDIA if job.row.get(name)]
                for row_key, row in rows.items():
                    prompt = build_prompt(row, self.processor.instruction)
                    target = teacher_target(row, self.teacher_targets)
                    key = content_key("teacher", teacher, precision, digest, prompt, target, *asked)
                    feature = self.store.get(key)
                    if feature is None:
                        job.teacher_rows.append((key, row))
                    else:
                        found.teacher[row_key] = feature
            return job

        with ThreadPoolExecutor(_THREADS) as threads:
            jobs = list(threads.map(look_up, clips.keys(), clips.values()))
        seen: set[str | None] = set()
        for job in jobs:  # clips may differ in their sound alone
            job.mask_key = None if job.mask_key in seen else job.mask_key
            seen.add(job.mask_key)
        jobs = [job for job in jobs if job.mask_key is not None or job.teacher_rows]
        # The first tells how much disk the others take.
        return found, sorted(jobs, key=lambda job: job.mask_key is None)

    def _make(self, jobs: list[_ClipJob], found: KeptFeatures) -> None:
        """Run the models, write what they make, and add the teacher's features to those found."""
        total, new = len(found.mask_keys), sum(job.mask_key is not None for job in jobs)
        rows_found, rows_new = len(found.teacher), sum(len(job.teacher_rows) for job in jobs)
        counts = torch.tensor([total - new, new, rows_found, rows_new], device=self.accelerator.device)
        counts = self.accelerator.reduce(counts)
        device = self.accelerator.device
        if self.model is not None and new:
            self.model.mask_decoder.to(device)
        if self.teacher is not None and rows_new:
            self.teacher.to(device)
        inputs = DataLoader(
            _JobInputs(jobs, self.processor, self.teacher_targets, self.share_prefix),
            batch_size=None,
            collate_fn=_as_is,
            num_workers=min(self.num_workers, len(jobs)),
            generator=torch.Generator(),  # the numbers that training draws stay what they are without this
        )
        progress = Progress(len(jobs), quiet=not self.accelerator.is_main_process, unit="clips")
        for done, (job, mask_frames, batches) in enumerate(inputs):
            mask_bytes = self._make_mask_features(job, mask_frames)
            self._make_teacher_features(job, batches, found)
            if done == 0:
                self._announce(counts.tolist(), mask_bytes)
            progress.step(f"features for {self.store.folder}")
        if not jobs:
            self._announce(counts.tolist(), 0)

    def _make_mask_features(self, job: _ClipJob, mask_frames: torch.Tensor | None) -> int:
        """Encode a clip for the mask decoder, and return the bytes that it takes."""
        if self.model is None or job.mask_key is None or mask_frames is None:
            return 0
        with self.accelerator.autocast():
            embeddings = self.model.encode_masks(mask_frames[None].to(self.accelerator.device))
        return self.store.write(job.mask_key, embeddings[0])

    def _make_teacher_features(
        self, job: _ClipJob, batches: list[dict[str, torch.Tensor]], found: KeptFeatures
    ) -> None:
        """Let the teacher read rows about a clip."""
        if self.teacher is None:
            return
        for chunk, batch in zip(job.chunks(), batches, strict=True):
            with self.accelerator.autocast():
                on_device = {name: value.to(self.accelerator.device) for name, value in batch.items()}
                features = self.teacher(**on_device, logits_to_keep=1).seg_features.float().cpu()
            for (key, row), feature in zip(chunk, features, strict=True):
                self.store.write(key, feature)
                found.teacher[teacher_row_key(row, self.teacher_targets)] = feature

    def _announce(self, counts: list[int], mask_bytes: int) -> None:
        """Say what is there and what is to come; raise `DataError` where it does not fit."""
        if not self.accelerator.is_main_process:
            return
        clips, new_clips, rows, new_rows = counts
        parts = []
        if self.model is not None:
            parts.append(f"mask features of {clips} of {clips + new_clips} clips")
        if self.teacher is not None:
            parts.append(f"teacher features of {rows} of {rows + new_rows} rows")
        to_come = mask_bytes * new_clips
        size = f"; the others take {to_come / 1e9:.2g} GB" if to_come else ""
        sys.stderr.write(f"    {self.store.folder} has {' and '.join(parts)}{size}\n")
        sys.stderr.flush()
        free = shutil.disk_usage(self.store.folder).free if to_come else to_come
        if to_come > free:
            raise DataError(
                f"{self.store.folder}: features of {new_clips} clips take {to_come / 1e9:.2g} GB, and "
                f"{free / 1e9:.2g} GB are free; name another `feature_cache`, or leave it off"
            )
