"""Learned embeddings that are read behind an answer, in place of a `[SEG]` that the model writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class SegQueries(nn.Module):
    """
    K embeddings that take the places of `[SEG]` in what a language model reads (AURORA, section 8.1, "learnable
    tokens"). The vocabulary stays as it is: the id of `[SEG]` marks the places, and its own embedding is never read.

    They begin at random numbers of the size of an embedding, the same ones each time: an adapter of a phase that did
    not train them does not hold them, and all processes agree.

    Args:
        num_queries (`int`): K.
        hidden_size (`int`): of the language model.
        std (`float`): of its embeddings.
    """

    def __init__(self, num_queries: int, hidden_size: int, std: float):
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = torch.randn(num_queries, hidden_size, generator=generator, device="cpu", dtype=torch.float32)
        self.embeddings = nn.Parameter(torch.empty(num_queries, hidden_size))
        with torch.no_grad():
            self.embeddings.copy_(drawn * std)

    def forward(self, inputs_embeds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """
        Args:
            inputs_embeds (`torch.Tensor` of shape `(B, L, H)`): embeddings of the ids.
            places (`torch.Tensor` of shape `(B, L)`, bool): where the id of `[SEG]` stands: K times behind an answer,
                of which a row may hold several.

        Returns:
            `torch.Tensor` of shape `(B, L, H)`: the k-th place of each answer holds the k-th embedding. Where there is
            no place, the embeddings still get a gradient, of zeros: every process has one.
        """
        number = (places.long().cumsum(dim=-1) - 1) % len(self.embeddings)
        queries = self.embeddings.to(inputs_embeds.dtype)[number[places]]
        return inputs_embeds.masked_scatter(places[..., None], queries)


def query_places(first: torch.Tensor, num_queries: int) -> torch.Tensor:
    """The places `(N, K)` of the queries behind answers, out of the first one's `(N,)`."""
    return first[:, None] + torch.arange(num_queries, device=first.device)


@contextmanager
def place_queries(model: Any) -> Iterator[None]:
    """
    Inside the block each forward of the backbone reads a model's queries at the places of `[SEG]`; nothing happens for
    a model without them.

    Args:
        model (`AuroraModel`): the model.
    """
    if model.config.seg_source != "queries":
        yield
        return
    placed: list[bool] = []

    def place(_module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        placed.append(True)
        return model.seg_queries(output, args[0] == model.config.seg_token_id)

    def check(_module: nn.Module, _args: Any, _output: Any) -> None:
        if not placed:
            raise ValueError(
                f"`seg_source: queries` needs a policy that calls its input embeddings with the ids, and "
                f"{type(model.policy).__name__} does not"
            )
        placed.clear()

    handles = [
        model.get_input_embeddings().register_forward_hook(place),
        model.base_model.register_forward_hook(check),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def require_queries_possible(model: Any) -> None:
    """
    Raise `ValueError` where a model can not have queries.

    Args:
        model (`AuroraModel`): its policy and its mask decoder.
    """
    if model.mask_decoder.finds_objects:
        raise ValueError(
            "`seg_source: queries` prompts for one object, and "
            f"{type(model.mask_decoder).__name__} takes a prompt as a concept: use a tracker, SAM or SAM 2"
        )
    if getattr(model.policy.config, "answer_ids", None):
        raise ValueError(
            f"`seg_source: queries` stands behind an answer without [SEG], and {type(model.policy).__name__} always "
            "writes one sentence with it: use a language model"
        )
