"""Groups of completions whose rewards are all equal teach nothing: they may be sampled again (after DAPO)."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import Trainer

# Of prompts a second draw has the same.
_OF_PROMPTS = ("prompt_ids", "prompt_mask")
_LEAST_DEVIATION = 1e-6


def rows_to_draw(deviation: torch.Tensor, num_generations: int, num_rows: int, process: int) -> list[int]:
    """
    The rows of a process that are drawn again: as many on every process, since all of them compare rewards together.

    A process that has fewer groups to draw again takes others along, whose second draw is thrown away. Where groups
    are spread over processes, all rows are drawn.

    Args:
        deviation (`torch.Tensor` of shape `(groups,)`): of the rewards of each group, of all processes in order.
        num_generations (`int`): completions of a group.
        num_rows (`int`): completions of a process.
        process (`int`): its number.

    Returns:
        `list[int]`: whole groups in ascending order; empty where no group of any process is to be drawn again.
    """
    equal = deviation <= _LEAST_DEVIATION
    if not bool(equal.any()):
        return []
    if num_rows % num_generations:
        return list(range(num_rows))
    by_process = equal.view(-1, num_rows // num_generations)
    count = int(by_process.sum(dim=1).max())
    order = (~by_process[process]).long().argsort(stable=True)[:count].sort().values
    return [group * num_generations + i for group in order.tolist() for i in range(num_generations)]


def take_drawn(
    output: dict[str, Any],
    again: dict[str, Any],
    rows: list[int],
    taken: torch.Tensor,
    pad_token_id: int,
) -> dict[str, Any]:
    """
    A rollout with the completions of a second draw in place of some.

    Args:
        output (`dict`): TRL's, of all rows.
        again (`dict`): TRL's, of the rows that were drawn again.
        rows (`list[int]`): which those are.
        taken (`torch.Tensor` of shape `(len(rows),)`, bool): those whose second draw is taken.
        pad_token_id (`int`): fills the shorter completions.

    Returns:
        `dict`: as `output`. What is no value per row is that of `output`.
    """
    size = output["completion_ids"].size(0)
    places = torch.tensor(rows, device=output["completion_ids"].device)[taken]
    merged = dict(output)
    for name, value in output.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.size(0) != size or name in _OF_PROMPTS:
            continue
        new, fill = again[name], pad_token_id if name == "completion_ids" else 0
        if value.dim() == 2:
            longest = max(value.size(1), new.size(1))
            value, new = (F.pad(part, (0, longest - part.size(1)), value=fill) for part in (value, new))
        merged[name] = value.clone()
        merged[name][places] = new[taken]
    return merged


class EqualGroups(Trainer):
    """
    Stands before TRL's class among a trainer's bases: draws completions again where `resample_equal_groups` says so.
    """

    _bank: Any  # a ClipBank
    _banks: dict[str, Any]
    _samples: torch.Tensor
    _group_deviation: torch.Tensor  # of the last rewards, of all processes
    _metrics: Any
    _tokenizer: Any
    num_generations: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, and again for the groups whose rewards are all equal."""
        rollout: Any = super()
        output = rollout._generate_and_score_completions(inputs)
        if not self.model.training or self.args.resample_equal_groups == 0:
            return output
        bank, process, drawn_again = self._bank, self.accelerator.process_index, 0.0
        for _ in range(self.args.resample_equal_groups):
            deviation = self._group_deviation
            layout = (self.num_generations, len(inputs))
            rows = rows_to_draw(deviation, *layout, process)
            if not rows:
                break
            drawn_again += float((deviation <= _LEAST_DEVIATION).float().mean())
            self._banks["train"] = bank.of_samples(rows)
            self._samples = torch.arange(len(rows), device=self.accelerator.device)
            try:
                again = rollout._generate_and_score_completions([inputs[i] for i in rows])
            finally:
                self._banks["train"] = bank
            groups = (torch.tensor(rows) + process * len(inputs)) // self.num_generations
            taken = (deviation <= _LEAST_DEVIATION)[groups.to(deviation.device)]
            output = take_drawn(output, again, rows, taken, self._tokenizer.pad_token_id)
            # TRL's number of tokens, of all processes.
            output["num_items_in_batch"] = self.accelerator.gather(output["completion_mask"].sum()).sum()
            self._group_deviation = _deviation_after(deviation, self._group_deviation, *layout)
        self._metrics["train"]["resampled_share"].append(drawn_again)
        return output


def _deviation_after(before: torch.Tensor, again: torch.Tensor, num_generations: int, num_rows: int) -> torch.Tensor:
    """The deviation of each group, of all processes, once the second draw is taken: see `rows_to_draw`."""
    equal = before <= _LEAST_DEVIATION
    if num_rows % num_generations:
        return torch.where(equal, again, before)
    after = before.clone()
    groups_of_process = num_rows // num_generations
    num_processes = len(before) // groups_of_process
    for process, values in enumerate(again.view(num_processes, -1)):
        rows = rows_to_draw(before, num_generations, num_rows, process)[::num_generations]
        groups = torch.tensor(rows, device=before.device) // num_generations + process * groups_of_process
        after[groups] = torch.where(equal[groups], values, before[groups])
    return after
