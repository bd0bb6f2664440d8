"""What a step's rows of each source of a mixture lose and earn."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset

from ..data.mixture import source_weights
from ..generation.mixture_sampler import MixtureSampler
from ..models.shared_prefix import IGNORE_INDEX, collect_segments
from .best_metric import require_known_metric
from .gathered_log import GatheredLog
from .mask_losses import mask_losses
from .mask_targets import MaskTargets
from .object_losses import object_losses


class SourceLog(GatheredLog):
    """Stands before TRL's class among a trainer's bases: logs means by source, as `NAME/iou`, while it trains."""

    _evaluated = ""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """A name that no evaluation of these datasets holds would end the run at the first one."""
        require_known_metric(self)
        return super().train(*args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Keep the name of the dataset that is evaluated: of several, transformers puts it into the prefix."""
        self._evaluated = metric_key_prefix.partition("eval_")[2] if metric_key_prefix.startswith("eval_") else ""
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's own metrics of an evaluation have no dataset's name: put it before them."""
        if self._evaluated and not self.model.training:
            for key in list(self._metrics["eval"]):
                self._metrics["eval"][f"{self._evaluated}_{key}"] = self._metrics["eval"].pop(key)
        super().log(logs, start_time)

    def _use_sources(self, train_dataset: Dataset, args: Any, option: str, free: Any) -> None:
        """
        Take the names of a mixture's sources; there are none where the rows are no mixture.

        Args:
            train_dataset (`Dataset`): rows.
            args (`TrainingArguments`): the trainer's config.
            option (`str`), free (`Any`): what orders the rows, and its value where nothing is asked for.

        Raises:
            `ValueError`: where the config asks for an order, which is not by weight.
        """
        self.source_names = list(source_weights(train_dataset))
        if self.source_names and getattr(args, option) != free:
            raise ValueError(
                f"`{option}: {getattr(args, option)}` does not go with a mixture, whose rows are drawn by weight: "
                "leave it out"
            )

    def take_sources(self, inputs: dict[str, Any]) -> list[str] | None:
        """The source of each row, taken out of a batch; None in an evaluation, or where the rows are no mixture."""
        sources = inputs.pop("sources", None)
        return sources if self.model.training else None

    def _mixture_sampler(self, dataset: Dataset, seed: int, *, by_clip: bool = False) -> MixtureSampler | None:
        """The order of a mixture; None where the rows are none."""
        return MixtureSampler(dataset, seed, by_clip) if source_weights(dataset) else None

    @torch.no_grad()
    def log_losses_by_source(
        self,
        sources: Sequence[str] | None,
        inputs: Mapping[str, torch.Tensor],
        output: Mapping[str, Any],
        iou: torch.Tensor | None = None,
        targets: MaskTargets | None = None,
    ) -> None:
        """
        Log what a supervised step's rows of each source lose.

        Args:
            sources (`Sequence[str]` or `None`): of each row; with None nothing is logged.
            inputs (`dict`): of the forward, with `labels` `(B, L)` and `seg_positions`.
            output (`dict`): of the forward, with `log_probs`: of several the last, see `label_smoothing_factor`.
            iou (`torch.Tensor` of shape `(B,)`, *optional*): of the masks.
            targets (`MaskTargets`, *optional*): what the masks are compared with.
        """
        if sources is None:
            return
        counts, log_probs = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum(dim=1), output["log_probs"]
        if "prefix_lengths" in inputs:
            log_probs = collect_segments(log_probs, inputs["clip_index"])
        values = {"ce_loss": (-log_probs.float().sum(dim=1) / counts.clamp(min=1), counts)}
        ones = torch.ones(len(sources), device=counts.device)
        if iou is not None:
            values["iou"] = (iou, ones)
        for name in dict.fromkeys(sources) if targets is not None else ():
            rows = [row for row, source in enumerate(sources) if source == name]
            for part, value in self._mask_losses_of(rows, inputs, output, targets).items() if targets else ():
                values.setdefault(part, (torch.zeros_like(ones), ones))[0][rows] = value.float()
        self.log_by_source(sources, values)

    def _mask_losses_of(
        self, rows: list[int], inputs: Mapping[str, torch.Tensor], output: Mapping[str, Any], targets: MaskTargets
    ) -> Mapping[str, torch.Tensor]:
        """The mask losses of some rows by their numbers, by name."""
        logits, has_seg = output["mask_logits"][rows], inputs["seg_positions"][rows] >= 0
        if targets.object_masks is None:
            return mask_losses(logits, targets.masks[rows], has_seg, self.args)[1]
        return object_losses(logits, targets.masks[rows], targets.object_masks[rows], has_seg, self.args)[1]

    def log_rewards_by_source(self, sources: Sequence[str], rewards: torch.Tensor, iou: torch.Tensor) -> None:
        """
        Log what a rollout's completions about each source earn.

        Args:
            sources (`Sequence[str]`): of each completion of this process.
            rewards (`torch.Tensor` of shape `(N, functions)`): of the completions of all processes.
            iou (`torch.Tensor` of shape `(B,)`): of this process's.
        """
        start = self.accelerator.process_index * len(sources)
        own, ones = rewards[start : start + len(sources)], torch.ones_like(iou)
        values = {"iou": (iou, ones), "reward": ((own * self.reward_weights.to(own.device)).nansum(dim=1), ones)}
        for name, column in zip(self.reward_func_names, own.T, strict=True):
            values[f"rewards/{name}"] = (column.nan_to_num(), ~column.isnan())
        self.log_by_source(sources, values)

    def log_by_source(self, sources: Sequence[str], values: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """
        Log the means over the rows of each source, on all processes; all of them call this, or none does.

        Args:
            sources (`Sequence[str]`): of each row.
            values (`Mapping[str, tuple]`): by the metric's name, the rows' values and their weights, `(B,)` each.
        """
        device = self.accelerator.device
        index = torch.tensor([self.source_names.index(name) for name in sources], device=device)
        sums = torch.zeros(len(self.source_names), len(values), 2, device=device)
        for column, (value, weight) in enumerate(values.values()):
            pair = torch.stack([value.detach().float() * weight, weight.float()], dim=1).to(device)
            sums[:, column].index_add_(0, index, pair)
        total = self.accelerator.gather(sums[None]).sum(dim=0).tolist()
        for source, columns in zip(self.source_names, total, strict=True):
            for name, (value, weight) in zip(values, columns, strict=True):
                if weight:
                    self._metrics["train"][f"{source}/{name}"].append(value / weight)
