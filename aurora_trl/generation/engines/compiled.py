"""
Sampling with one compiled step per token.

A step of a language model is some thousand kernels of a few microseconds each, which a host starts one by one more
slowly than a GPU runs them. Here the prompt is read as always, its keys and values move to a cache of fixed size, and
one compiled step follows for each token; a GPU gets it as one CUDA graph. Rows that have ended leave the batch each
time that half of those in it have.

The tokens are those of transformers' own loop: the same processors and criteria, the same draws from the same random
numbers. LoRA stays beside the weights: merged into bfloat16 a small update would be rounded away, and a graph starts a
few kernels more at no cost.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, GenerationConfig, LogitsProcessorList, StaticCache, StoppingCriteriaList
from transformers.generation import GenerationMode

from ...models.policies.base import text_position_ids
from .fixed_cache import set_length
from .open_rows import OpenRows
from .states import record_last_states

logger = logging.getLogger(__name__)

_ATTENTION = "aurora_decode"
_BACKEND = "inductor"
# How far a compiled step may be from the plain one, as a share of the state's size.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.1


def decode_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    Attention of one new token per row, without copies of the keys: the heads that share them are its queries.

    Args:
        module (`nn.Module`): the layer; taken and not looked at.
        query (`torch.Tensor` of shape `(B, heads, 1, D)`): of the new token.
        key, value (`torch.Tensor` of shape `(B, groups, L, D)`): the cache.
        attention_mask (`torch.Tensor` of shape `(B, 1, 1, L)`, bool): what is seen.
        scaling (`float`, *optional*): of the scores.
        **kwargs: of other kinds of attention.

    Returns:
        `tuple`: `(B, 1, heads, D)`, and None in the place of weights.
    """
    batch_size, heads, _, size = query.shape
    packed = query.reshape(batch_size, key.shape[1], heads // key.shape[1], size)
    output = nn.functional.scaled_dot_product_attention(packed, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch_size, heads, 1, value.shape[-1]).transpose(1, 2), None


AttentionInterface.register(_ATTENTION, decode_attention)


class CompiledDecoder:
    """
    Decodes for one policy; its step is compiled at the first token.

    Args:
        policy (`PreTrainedModel`): a policy that takes 4D masks, its weights whole.
    """

    def __init__(self, policy: Any):
        self._policy = policy
        self._step: Callable[..., tuple[torch.Tensor, torch.Tensor]] = torch.compile(
            self.plain_step, fullgraph=True, dynamic=True, backend=_BACKEND
        )
        self._checked = False
        # Layers that attend, by the configs that say how.
        layers = [module for module in policy.model.modules() if hasattr(module, "num_key_value_groups")]
        self._configs = list({id(layer.config): layer.config for layer in layers if hasattr(layer, "config")}.values())

    def recording(self, states: list[torch.Tensor], strict: bool) -> Callable[..., torch.Tensor]:
        """
        A decoding method for transformers' `generate`.

        Args:
            states (`list[torch.Tensor]`): takes the state of each step, `(B, H)`, as `record_last_states` gives it.
            strict (`bool`): whether a step that can not be compiled is an error, or runs plain with a line.
        """
        return partial(self._decode, states=states, strict=strict)

    def plain_step(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor, cache: StaticCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Read one token per row.

        Args:
            input_ids (`torch.Tensor` of shape `(B, 1)`), position_ids (`torch.Tensor` of shape `(..., B, 1)`): of the
                token.
            attention_mask (`torch.Tensor` of shape `(B, 1, 1, L)`, bool): what it sees, itself included.
            cache (`StaticCache`): of length L; it grows by the token.

        Returns:
            `tuple`: states `(B, H)` and logits `(B, V)`.
        """
        output = self._policy.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=True,
        )
        state = output.last_hidden_state[:, -1]
        return state, self._policy.get_output_embeddings()(state)

    def _run_step(self, inputs: dict[str, Any], strict: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """As `plain_step`, compiled; the first of all is held against the plain one."""
        with torch._dynamo.config.patch(recompile_limit=64):  # one code serves all models of a process
            if self._checked:
                return self._step(**inputs)
            length = int(inputs["cache"].layers[0].cumulative_length)
            expected, _ = self.plain_step(**inputs)
            set_length(inputs["cache"], length)
            try:
                output = self._step(**inputs)
            except Exception as error:
                reason = f"a step can not be compiled ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
                if strict:
                    raise RuntimeError(f"{reason}: use the engine `eager`") from error
                logger.warning(f"{reason}: answers are sampled without")
                self._step = self.plain_step
                set_length(inputs["cache"], length)
                output = self._step(**inputs)
        difference = ((output[0] - expected).float().norm() / expected.float().norm()).item()
        if not difference < (_TOLERANCE if expected.dtype == torch.float32 else _HALF_TOLERANCE):
            raise RuntimeError(
                f"a compiled step differs from the plain one by {difference:.1g} of the state's size: use the engine "
                "`eager`, and report it"
            )
        self._checked = True
        return output

    @contextmanager
    def _decode_attention(self) -> Iterator[None]:
        before = [config._attn_implementation for config in self._configs]
        for config in self._configs:
            config._attn_implementation = _ATTENTION
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation = name

    @torch.no_grad()
    def _decode(
        self,
        policy: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        states: list[torch.Tensor],
        strict: bool,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """In the place of `GenerationMixin._sample`; `input_ids` `(B, L)`, padded on the left, grow by the answers."""
        mode = generation_config.get_generation_mode()
        if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
            raise ValueError(f"`compiled` samples, and was asked for {mode.value}: use the engine `eager`")
        num_new = stopping_criteria.max_length - input_ids.size(1)
        attention_mask = model_kwargs.get("attention_mask")
        if attention_mask is None:  # nothing is padded
            attention_mask = torch.ones_like(input_ids)
        position_ids = model_kwargs.get("position_ids")
        if position_ids is None:
            position_ids = text_position_ids(input_ids, attention_mask)
        with record_last_states(policy) as prompt_states:
            output = policy._prefill(input_ids, generation_config, model_kwargs)
        logits = output.logits[:, -1].to(copy=True, dtype=torch.float32)
        states.append(prompt_states[-1])
        rows = OpenRows(partial(self._run_step, strict=strict), output.cache, attention_mask, position_ids, num_new)
        del output, prompt_states
        with self._decode_attention():
            return self._write(
                rows, input_ids, logits, states, logits_processor, stopping_criteria, generation_config, streamer
            )

    @staticmethod
    def _write(
        rows: OpenRows,
        input_ids: torch.Tensor,
        logits: torch.Tensor,
        states: list[torch.Tensor],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        streamer: Any,
    ) -> torch.Tensor:
        """Choose a token for each row, those that have ended included, and read it, until all have ended."""
        can_end = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        is_open = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while True:
            # Of all rows: with fewer, the random numbers would fall to others than in transformers' loop.
            scores = logits_processor(input_ids, logits)
            if generation_config.do_sample:
                tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1)[:, 0]
            else:
                tokens = scores.argmax(dim=-1)
            if can_end:
                tokens = torch.where(is_open, tokens, generation_config._pad_token_tensor)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            is_open = is_open & ~stopping_criteria(input_ids, ())
            if streamer is not None:
                streamer.put(tokens.cpu())
            num_open = int(is_open.sum())
            if num_open == 0:
                break
            if num_open > 1 and 2 * num_open <= len(rows.rows):
                rows.keep(is_open)
            read, open_logits = rows.read(tokens)
            state = torch.zeros_like(states[0])
            state[rows.rows] = read
            states.append(state)
            logits[rows.rows] = open_logits.float()
        if streamer is not None:
            streamer.end()
        return input_ids
