"""What the model answers about some rows at each evaluation, and how rewards and lengths are distributed."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models import unwrap_model_for_generation

from ..data.masks import frame_extents
from ..data.schema import Row
from ..evaluation.scoring import describe_answer
from ..evaluation.visualize import load_answer
from ..generation.answer import Answer
from ..generation.answers import answer_rows
from ..generation.choosing import Choosing
from ..generation.clip_bank import framed_targets
from ..generation.clip_loader import ClipLoader, stack_hints
from ..generation.picture import draw_clip
from ..models.box_prompts import stack_prompts
from ..prompts import build_prompt
from .lora import unwrap_aurora
from .rewards import bbox_format_reward, class_reward, completion_text, format_reward, iou_reward
from .trackers import Sample, find_trackers

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 4
_SFT_REWARDS: dict[str, Callable[..., Any]] = {
    "format_reward": format_reward,
    "class_reward": class_reward,
    "iou_reward": iou_reward,
}


def add_sample_log(trainer: Any) -> None:
    """
    Give a trainer the callback that its config's `log_samples` asks for.

    Raises:
        `ValueError`: where it has no rows to evaluate.
    """
    if not trainer.args.log_samples:
        return
    if not trainer.eval_dataset:
        raise ValueError("`log_samples` shows rows of `eval_dataset`, and there is none")
    trainer.add_callback(SampleLog(trainer, trainer.args.log_samples))


class SampleLog(TrainerCallback):
    """
    At each evaluation, asks the model about the same rows of the evaluation split and shows text, masks and rewards in
    the trackers; in GRPO also the distribution of the rollouts' rewards and lengths, whenever they are logged.

    Answers are greedy: they take nothing from the random state of training.

    Args:
        trainer (`Trainer`): one of ours, whose `eval_dataset` has at least one row; of several datasets the first.
        num_rows (`int`): how many rows; they are spread evenly over the dataset.
    """

    def __init__(self, trainer: Any, num_rows: int):
        self._trainer = trainer
        datasets = trainer.eval_dataset
        rows = next(iter(datasets.values())) if isinstance(datasets, dict) else datasets
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(num_rows, len(rows))).round().astype(int))
        self._rows: list[Row] = [dict(rows[int(number)]) for number in chosen]
        self._loader = ClipLoader(trainer.processing_class, cache_clips=len(self._rows))
        self._loader.allow_unmarked = True  # what a row lacks is not shown
        self._shown_step: int | None = None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the samples, once for a step: several datasets are evaluated one after the other."""
        if self._shown_step == state.global_step:
            return
        self._shown_step = state.global_step
        trainer = self._trainer
        # ZeRO-3 brings its weights together on all processes; one of them answers.
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator):
            trackers = find_trackers(trainer)
            if not trackers:
                return
            try:
                samples = self._answer()
                for tracker in trackers:
                    tracker.show_samples(samples, state.global_step)
            except Exception as error:  # what is shown is not worth a run
                _say_once("no row is shown", repr(error))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the distributions of the last rollout."""
        kept = getattr(self._trainer, "_logs", None)
        if kept is None or "reward" not in (logs or {}):
            return
        tokenizer = self._trainer.processing_class.tokenizer
        texts = [completion_text(completion) for completion in kept["completion"]]
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        columns = {f"rewards/{name}/distribution": list(values) for name, values in kept["rewards"].items()}
        columns["completions/length_distribution"] = lengths
        for tracker in find_trackers(self._trainer):
            for name, values in columns.items():
                known = [float(value) for value in values if np.isfinite(value)]
                if known:
                    tracker.show_histogram(name, known, state.global_step)

    def _answer(self) -> list[Sample]:
        trainer, processor = self._trainer, self._trainer.processing_class
        aurora = unwrap_aurora(trainer.model)
        scored = aurora.mask_decoder.gives_quality and aurora.config.mask_source != "box"
        with trainer.accelerator.autocast():
            answers = list(
                answer_rows(
                    aurora,
                    processor,
                    self._rows,
                    batch_size=_ROWS_AT_ONCE,
                    max_new_tokens=getattr(trainer.args, "max_completion_length", None),
                    loader=self._loader,
                    choosing=Choosing(scored=scored),
                )
            )
        rewards = self._rewards(answers)
        samples = []
        for number, answer in enumerate(answers):
            described = describe_answer(
                answer, processor.num_frames, processor.max_objects, processor.mask_source, processor.seg_source
            )
            parts = {name: values[number] for name, values in rewards.items()}
            title = f"“{answer.row['reference']}”  " + ", ".join(
                f"{name.removesuffix('_reward')} {value:.2f}" for name, value in parts.items() if value is not None
            )
            picture = draw_clip(**load_answer(answer.row, described), title=title, text=answer.completion)
            samples.append(Sample(answer.row["id"], answer.row["reference"], answer.completion, picture, parts))
        return samples

    def _rewards(self, answers: Sequence[Answer]) -> dict[str, list[float | None]]:
        """Each reward of each answer: GRPO's own functions, and the paper's three in supervised phases."""
        functions, writes_boxes = _SFT_REWARDS, self._trainer.processing_class.mask_source == "box"
        if writes_boxes:
            functions = {**functions, "format_reward": bbox_format_reward}
        if self._trainer.processing_class.seg_source == "queries":  # the text asks for no mask
            functions = {name: function for name, function in functions.items() if name != "format_reward"}
        if hasattr(self._trainer, "reward_funcs"):
            named = zip(self._trainer.reward_func_names, self._trainer.reward_funcs, strict=True)
            # A reward model has a tokenizer of its own, and a function that waits has a loop: they are left out.
            functions = {
                name: function
                for name, function in named
                if not isinstance(function, nn.Module) and not inspect.iscoroutinefunction(function)
            }
        columns = self._columns(answers)
        rewards: dict[str, list[float | None]] = {}
        for name, function in functions.items():
            try:
                rewards[name] = list(function(**columns))
            except Exception as error:  # it may be one that knows rollouts alone
                _say_once(f"`{name}` is not shown", repr(error))
        return rewards

    def _columns(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What reward functions get in training, of these answers; what the rows have not is left out there, too."""
        trainer, processor = self._trainer, self._trainer.processing_class
        rows = [answer.row for answer in answers]
        columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in rows[0]}
        columns.update(self._masks(answers))
        if processor.mask_source != "seg":
            read = [stack_prompts(answer.prompts, processor.num_frames) for answer in answers]
            columns |= {"pred_boxes": [boxes for boxes, _ in read], "pred_points": [points for _, points in read]}
        if processor.mask_source != "box" and unwrap_aurora(trainer.model).mask_decoder.gives_quality:
            columns["mask_quality"] = [answer.quality for answer in answers]
        columns["prompts"] = [build_prompt(row, processor.instruction) for row in rows]
        columns["completions"] = [[{"role": "assistant", "content": answer.completion}] for answer in answers]
        columns["completion_ids"] = [self._completion_ids(answer) for answer in answers]
        columns["trainer_state"] = trainer.state
        # What a function logs is about rollouts.
        columns["log_extra"] = columns["log_metric"] = lambda *args, **kwargs: None
        return columns

    def _completion_ids(self, answer: Answer) -> list[int]:
        tokenizer = self._trainer.processing_class.tokenizer
        ids = tokenizer(answer.completion, add_special_tokens=False)["input_ids"]
        return ids if answer.cut else [*ids, tokenizer.eos_token_id]

    def _masks(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """Targets, hints and predicted masks in the size in which training compares them."""
        rows = [answer.row for answer in answers]
        masks = torch.stack([self._loader.masks(row) for row in rows])
        hints = stack_hints([self._loader.hints(row) for row in rows], masks)
        extents = frame_extents(framed_targets(masks, hints))
        framed = {"masks": masks, **hints}
        found: dict[str, list[Any]] = {name: [] for name in (*framed, "pred_masks")}
        max_objects = self._trainer.processing_class.max_objects
        if max_objects > 1:
            framed["object_masks"] = torch.stack([self._loader.object_masks(row) for row in rows])
            found |= {"object_masks": [], "max_objects": [max_objects] * len(rows)}
        for number, (answer, (height, width)) in enumerate(zip(answers, extents, strict=True)):
            for name, planes in framed.items():
                found[name].append(planes[number, ..., :height, :width])
            found["pred_masks"].append(_resized(answer.mask_logits, (height, width)))
        return found


@cache
def _say_once(what: str, error: str) -> None:
    """A line for each fault, and not one at each evaluation."""
    logger.warning(f"`log_samples`: {what}, which ended in {' '.join(error.split())}")


def _resized(logits: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor | None:
    if logits is None:
        return None
    return F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
