"""What the model answers about some rows at each evaluation, and how rewards and lengths are distributed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
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
from ..generation.clip_loader import ClipLoader
from ..generation.picture import draw_clip
from ..models.box_prompts import stack_prompts
from ..prompts import build_prompt
from .lora import unwrap_aurora
from .rewards import bbox_format_reward, class_reward, completion_text, format_reward, iou_reward
from .trackers import Sample, find_trackers

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
            samples = self._answer()
        for tracker in trackers:
            tracker.show_samples(samples, state.global_step)

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
        with trainer.accelerator.autocast():
            answers = list(
                answer_rows(
                    unwrap_aurora(trainer.model),
                    processor,
                    self._rows,
                    batch_size=_ROWS_AT_ONCE,
                    max_new_tokens=getattr(trainer.args, "max_completion_length", None),
                    loader=self._loader,
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
        rows = [answer.row for answer in answers]
        if any(row.get("class_name") is None for row in rows):
            functions = {name: function for name, function in functions.items() if function is not class_reward}
        if not all(row.get("masks") or row.get("is_null") for row in rows):
            functions = {name: function for name, function in functions.items() if function is not iou_reward}
        columns = {name: [row.get(name) for row in rows] for name in rows[0]}
        columns.update(self._masks(answers))
        if writes_boxes:
            num_frames = self._trainer.processing_class.num_frames
            read = [stack_prompts(answer.prompts, num_frames) for answer in answers]
            columns |= {"pred_boxes": [boxes for boxes, _ in read], "pred_points": [points for _, points in read]}
        prompts = [build_prompt(row, self._trainer.processing_class.instruction) for row in rows]
        completions = [[{"role": "assistant", "content": answer.completion}] for answer in answers]
        return {
            name: function(prompts=prompts, completions=completions, **columns) for name, function in functions.items()
        }

    def _masks(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """Target and predicted masks in the size in which training compares them."""
        found: dict[str, list[Any]] = {"masks": [], "pred_masks": []}
        if self._trainer.processing_class.max_objects > 1:
            found["max_objects"] = [self._trainer.processing_class.max_objects] * len(answers)
            found["object_masks"] = []
        for answer in answers:
            if not (answer.row.get("masks") or answer.row.get("is_null")):
                found["masks"].append(None)
                found["pred_masks"].append(None)
                continue
            masks = self._loader.masks(answer.row)
            ((height, width),) = frame_extents(masks[None])
            found["masks"].append(masks[:, :height, :width])
            if "object_masks" in found:
                found["object_masks"].append(self._loader.object_masks(answer.row)[..., :height, :width])
            found["pred_masks"].append(_resized(answer.mask_logits, (height, width)))
        return found


def _resized(logits: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor | None:
    if logits is None:
        return None
    return F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
