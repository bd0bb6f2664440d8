"""The rows of a batch that are still being written."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

from .fixed_cache import fixed_cache, keep_rows

Step = Callable[[dict[str, Any]], tuple[torch.Tensor, torch.Tensor]]
# A cache's length is a multiple of it, for the alignment that fused attention wants.
_LENGTH_STEP = 64


class OpenRows:
    """
    What a step reads and writes, at fixed places: tokens, positions, mask and cache of the rows that go on.

    Args:
        step (`Callable`): takes the inputs of [`CompiledDecoder.plain_step`], returns states and logits.
        cache (`Cache`): of the whole prompt; it is moved.
        attention_mask (`torch.Tensor` of shape `(B, L)`): of the prompt, padded on the left.
        position_ids (`torch.Tensor` of shape `(..., B, L)`): of the prompt.
        num_new (`int`): tokens that may follow.
    """

    def __init__(
        self, step: Step, cache: Cache, attention_mask: torch.Tensor, position_ids: torch.Tensor, num_new: int
    ):
        batch_size, self._length = attention_mask.shape
        device = attention_mask.device
        room = -(-(self._length + num_new) // _LENGTH_STEP) * _LENGTH_STEP
        mask = torch.zeros(batch_size, 1, 1, room, dtype=torch.bool, device=device)
        mask[:, 0, 0, : self._length] = attention_mask.bool()
        self.rows = torch.arange(batch_size, device=device)
        self._step = step
        self._inputs = {
            "input_ids": torch.zeros(batch_size, 1, dtype=torch.long, device=device),
            "position_ids": position_ids[..., -1:] + 1,
            "attention_mask": mask,
            "cache": fixed_cache(cache, room),
        }
        self._graph: Any = None
        self._has_run = False
        self._output: tuple[torch.Tensor, torch.Tensor]

    def keep(self, is_open: torch.Tensor) -> None:
        """
        Let rows go.

        Args:
            is_open (`torch.Tensor` of shape `(B,)`, bool): of all rows of the batch, those that left before, too.
        """
        kept = is_open[self.rows].nonzero()[:, 0]
        self.rows = self.rows[kept]
        inputs = self._inputs
        for name in ("input_ids", "attention_mask"):
            inputs[name] = inputs[name][kept]
        inputs["position_ids"] = inputs["position_ids"][..., kept, :]
        keep_rows(inputs["cache"], kept)
        self._graph, self._has_run = None, False  # a graph is of one size

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Read the next token of each row.

        Args:
            tokens (`torch.Tensor` of shape `(B,)`): of all rows of the batch.

        Returns:
            `tuple`: states `(rows, H)` and logits `(rows, V)` of the open rows; new tensors each time.
        """
        inputs = self._inputs
        inputs["input_ids"].copy_(tokens[self.rows, None])
        inputs["attention_mask"][..., self._length] = True
        if tokens.device.type == "cuda" and self._has_run:
            states, logits = (value.clone() for value in self._replay())
        else:
            states, logits = self._step(inputs)
        self._has_run = True  # and is compiled for this size: what a graph records may allocate nothing else
        inputs["position_ids"] += 1
        self._length += 1
        return states, logits

    def _replay(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = self._step(self._inputs)
        self._graph.replay()
        return self._output
