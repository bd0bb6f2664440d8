"""Samples and histograms in the trackers that `report_to` names: trackio, wandb, tensorboard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from PIL import Image
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

_SECTION = "samples"


@dataclass(frozen=True)
class Sample:
    """
    A row of the evaluation split and what the model answers about it.

    Attributes:
        row_id (`str`), reference (`str`): the row's.
        completion (`str`): what the model wrote.
        picture (`Image.Image`): the clip with the masks.
        rewards (`dict[str, float | None]`): each part; None where it says nothing about this row.
    """

    row_id: str
    reference: str
    completion: str
    picture: Image.Image
    rewards: Mapping[str, float | None]


class Tracker(Protocol):
    """Where samples and histograms go."""

    def show_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Show the samples of an evaluation."""

    def show_histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """Show how values are distributed."""


class TensorBoardTracker:
    """TensorBoard: a picture, a text and the rewards of each sample."""

    def __init__(self, writer: Any):
        self._writer = writer

    def show_samples(self, samples: Sequence[Sample], step: int) -> None:
        """See [`Tracker`]."""
        for number, sample in enumerate(samples):
            name = f"{_SECTION}/{number}"
            self._writer.add_image(name, np.asarray(sample.picture), step, dataformats="HWC")
            # Indented, it is shown as it is: no text of a model is markup.
            text = "\n".join(f"    {line}" for line in [sample.reference, "", *sample.completion.splitlines()])
            self._writer.add_text(name, text, step)
            for part, value in sample.rewards.items():
                if value is not None:
                    self._writer.add_scalar(f"{name}/{part}", value, step)
        self._writer.flush()

    def show_histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """See [`Tracker`]."""
        self._writer.add_histogram(name, np.array(values), step)


class TableTracker:
    """
    wandb or trackio, which have the same functions: a picture of each sample, and a table with their texts.

    Args:
        client (`ModuleType`): the package, with a run that has begun.
    """

    def __init__(self, client: Any):
        self._client = client

    def show_samples(self, samples: Sequence[Sample], step: int) -> None:
        """See [`Tracker`]."""
        lines = [
            {
                "step": step,
                "id": sample.row_id,
                "reference": sample.reference,
                "completion": sample.completion,
                **sample.rewards,
            }
            for sample in samples
        ]
        # Each picture by itself: a table that is logged to wandb keeps no pictures of its own without a server.
        pictures = {
            f"{_SECTION}/{number}": self._client.Image(sample.picture, caption=sample.completion)
            for number, sample in enumerate(samples)
        }
        table = self._client.Table(dataframe=pd.DataFrame(lines))
        self._client.log({f"{_SECTION}/answers": table, **pictures, "train/global_step": step})

    def show_histogram(self, name: str, values: Sequence[float], step: int) -> None:
        """See [`Tracker`]."""
        self._client.log({name: self._client.Histogram(list(values)), "train/global_step": step})


def find_trackers(trainer: Trainer) -> list[Tracker]:
    """The trackers of a trainer that has begun to log; on the main process alone there are any."""
    if not trainer.is_world_process_zero():
        return []
    trackers: list[Tracker] = []
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            trackers.append(TensorBoardTracker(callback.tb_writer))
        elif isinstance(callback, WandbCallback):
            trackers.append(TableTracker(callback._wandb))
        elif isinstance(callback, TrackioCallback):
            trackers.append(TableTracker(callback._trackio))
    return trackers
