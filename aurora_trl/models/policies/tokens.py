"""The tokens that a published policy gets for its work here, and their rows."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AddedToken, PreTrainedModel

from ...errors import DataError
from ...prompts import SEG_TOKEN
from ..checkpoints.zero3 import full_shape, gathered


def require_chat_tokenizer(tokenizer: Any, source: str) -> None:
    """
    See to it that a published tokenizer can write a chat.

    Raises:
        `DataError`: names what it lacks: an end-of-turn token, padding, a chat template.
    """
    needs = {
        "eos_token": "it must end a turn (`<|im_end|>` in Qwen's chats)",
        "pad_token": "prompts of several lengths are batched with it",
        "chat_template": "prompts are written by it",
    }
    for name, reason in needs.items():
        if getattr(tokenizer, name, None) is None:
            raise DataError(f"{source}: the tokenizer has no `{name}`: {reason}; take the files of a chat model")


def add_tokens(tokenizer: Any, placeholders: Sequence[str] = ()) -> list[str]:
    """
    Add `[SEG]` as an ordinary token and the places of media as special ones, each where it is not there yet.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): changed in place.
        placeholders (`Sequence[str]`): such as `<video>`.

    Returns:
        `list[str]`: the tokens that are new.
    """
    known = tokenizer.get_vocab()
    new = [token for token in (*placeholders, SEG_TOKEN) if token not in known]
    special = [AddedToken(token, special=True, normalized=False) for token in new if token != SEG_TOKEN]
    tokenizer.add_tokens(special, special_tokens=True)
    if SEG_TOKEN in new:
        # Ordinary: `skip_special_tokens` must leave it in an answer.
        tokenizer.add_tokens([AddedToken(SEG_TOKEN, special=False, normalized=False)])
    return new


@torch.no_grad()
def init_token_rows(policy: PreTrainedModel, tokenizer: Any, new_tokens: Sequence[str]) -> None:
    """
    Give new tokens their rows in the embeddings and the head: the mean of the rows that were trained.

    Published vocabularies are padded: where the padding has room, new tokens take its rows, and nothing is resized.

    Args:
        policy (`PreTrainedModel`): changed in place.
        tokenizer (`PreTrainedTokenizerBase`): knows the new tokens.
        new_tokens (`Sequence[str]`): from `add_tokens`.
    """
    if not new_tokens:
        return
    ids = tokenizer.convert_tokens_to_ids(list(new_tokens))
    num_trained = min(ids)
    if max(ids) >= full_shape(policy.get_input_embeddings().weight)[0]:
        policy.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    tables = {policy.get_input_embeddings().weight, policy.get_output_embeddings().weight}  # one where they are tied
    for table in tables:
        with gathered([table]):
            table[ids] = table[:num_trained].float().mean(dim=0).to(table.dtype)
