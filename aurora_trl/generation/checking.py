"""An answer looked at again: the policy sees its mask over the clip, and says whether it fits."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data.schema import Row
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..prompts import CHECK_WORDS, build_check_prompt, escape_tokens, strip_answer
from .answer import Answer
from .clip_loader import ClipLoader, pad_ids, stack_clips
from .every_frame import masks_of_frame_size
from .overlay import overlay_masks


@torch.no_grad()
def check_answers(
    model: AuroraModel,
    processor: AuroraProcessor,
    loader: ClipLoader,
    rows: Sequence[Row],
    answers: Sequence[Answer],
) -> list[float]:
    """
    Ask the policy whether the masks of answers fit: it sees the clip again, with each object tinted and outlined, and
    reads the reference and what the answer said.

    Nothing is written: its verdict is how likely the first of `CHECK_WORDS` is as its next word, of the two. A policy
    that has never learnt from such pictures and this question may judge badly.

    Args:
        model, processor: from [`~aurora_trl.generation.answers.load`].
        loader (`ClipLoader`): reads the media, again for each answer.
        rows (`list[dict]`): what was asked about.
        answers (`list[Answer]`): one per row; nothing is tinted for one without a mask.

    Returns:
        `list[float]`: the probability of yes, of yes and no.
    """
    clips = [loader.changed_clip(row, partial(tint, answer)) for row, answer in zip(rows, answers, strict=True)]
    prompts = [_prompt_ids(processor, *each) for each in zip(rows, answers, clips, strict=True)]
    device = next(model.parameters()).device
    media = {name: value.to(device) for name, value in stack_clips(clips).items()}
    embeds = model.base_model.encode_media(**media).as_inputs()
    words = [processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in CHECK_WORDS]
    scores = word_log_probs(model, prompts, words, processor.tokenizer.pad_token_id, **embeds)
    return scores.softmax(dim=1)[:, 0].tolist()


def tint(answer: "Answer", frames: np.ndarray) -> np.ndarray:
    """Frames `(T, H, W, 3)` uint8 of a clip with an answer's masks over them."""
    logits = answer.mask_logits if answer.object_logits is None else answer.object_logits
    if logits is None:
        return frames
    each = logits.reshape(-1, *logits.shape[-3:])[:, : len(frames)]
    planes = np.stack([masks_of_frame_size(own, (frames.shape[1], frames.shape[2])) for own in each], axis=1)
    return np.stack([overlay_masks(frame, masks) for frame, masks in zip(frames, planes, strict=True)])


def _prompt_ids(processor: AuroraProcessor, row: Row, answer: "Answer", clip: dict[str, torch.Tensor]) -> list[int]:
    """As [`AuroraProcessor.prompt_ids`], of the question about an answer."""
    names = processor.tokenizer.get_added_vocab()
    row = {**row, "reference": escape_tokens(row["reference"], names)}
    turn = build_check_prompt(row, escape_tokens(strip_answer(answer.completion), names))
    text = processor.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return processor.policy_processor.expand_ids(ids, clip)


def word_log_probs(
    model: AuroraModel, prompts: Sequence[list[int]], words: Sequence[list[int]], pad_token_id: int, **embeds: Any
) -> torch.Tensor:
    """
    Log-probabilities of words after prompts, by forwards over both: one for all words of a single token.

    Args:
        model (`AuroraModel`): the model.
        prompts (`list[list[int]]`): B prompts as the model sees them.
        words (`list[list[int]]`): W words in tokens.
        pad_token_id (`int`): fills the shorter prompts.
        **embeds: the media's features, one entry per prompt.

    Returns:
        `torch.Tensor` of shape `(B, W)`, float32.
    """
    device = next(model.parameters()).device
    read: dict[tuple[int, ...], torch.Tensor] = {}
    for stem in {tuple(word[:-1]) for word in words}:
        written = [[*prompt, *stem] for prompt in prompts]
        output = model(
            input_ids=pad_ids(written, pad_token_id, side="left").to(device),
            attention_mask=pad_ids([[1] * len(ids) for ids in written], 0, side="left").to(device),
            logits_to_keep=len(stem) + 1,
            **embeds,
        )
        read[stem] = output.logits.float().log_softmax(dim=-1)  # (B, length of the word, V)
    columns = []
    for word in words:
        log_probs = read[tuple(word[:-1])]
        columns.append(sum(log_probs[:, place, token] for place, token in enumerate(word)))
    return torch.stack(columns, dim=1)  # type: ignore[arg-type]
