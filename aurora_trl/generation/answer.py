"""What a model said and drew for a row, and what that took."""

from dataclasses import dataclass

import torch

from ..data.schema import Row
from ..models.box_prompts import ObjectPrompt


@dataclass(frozen=True)
class Cost:
    """
    What an answer took, with those that were not kept.

    Attributes:
        answers (`int`): that were written.
        tokens (`int`): of all of them.
        checks (`int`): how often the policy looked at one again, for which it reads the clip anew.
    """

    answers: int
    tokens: int
    checks: int = 0


@dataclass
class Answer:
    """
    What the model said and drew for one row.

    Attributes:
        row (`dict`): the dataset row that was asked about.
        completion (`str`): the generated text, without special tokens.
        mask_logits (`torch.Tensor` of shape `(T, H', W')` or `None`): logits with the frame's aspect ratio, on the
            CPU; None where the answer asks for no mask, with `[SEG]` or with boxes, their union where it asks for
            several that count.
        num_tokens (`int`): length of the completion, the end-of-turn token included.
        cut (`bool`, *optional*, defaults to `False`): whether it ended at the limit, in the middle of something.
        object_logits (`torch.Tensor` of shape `(N, T, H', W')`, *optional*): where several `[SEG]` count, each one's;
            where the decoder finds several instances of what one `[SEG]` names, each instance's.
        seg_features (`torch.Tensor` of shape `(N, E)`, *optional*): the projected states at the `[SEG]` that count, on
            the CPU, or at its queries: what prompts the mask decoder, in other frames too. None where there is none.
        decoded_logits (`torch.Tensor` of shape `(T, h, w)`, *optional*): what `mask_logits` were made of, as they came
            from the decoder; on the CPU.
        quality (`float`, *optional*): the IoU that the mask decoder believes to have reached, in the mean over the
            clip's frames and the answer's objects; None where nobody asked, or the answer holds no `[SEG]`.
        score (`float`, *optional*): by what it was kept among several answers, see [`Choosing`].
        cost (`Cost`, *optional*): what it took, with those that were not kept.
        prompts (`list[ObjectPrompt]`, *optional*): the boxes and points of an answer that could be read, of a model
            that writes these.
    """

    row: Row
    completion: str
    mask_logits: torch.Tensor | None
    num_tokens: int
    cut: bool = False
    object_logits: torch.Tensor | None = None
    seg_features: torch.Tensor | None = None
    decoded_logits: torch.Tensor | None = None
    quality: float | None = None
    score: float | None = None
    cost: Cost | None = None
    prompts: list[ObjectPrompt] | None = None
