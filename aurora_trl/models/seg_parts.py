"""What strengthens `[SEG]` beside the paper's projector: each part is off by default and begins without effect."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .mask_decoders.base import ABSENT_LOGIT


class LayerMix(nn.Module):
    """
    The state at `[SEG]` out of several layers of the language model, in place of the last.

    Which layer knows best where the object is differs from reference to reference: ALS3P gives each layer a vector,
    whose product with the layer's own state decides, and takes one layer. Here every layer moves the last one's state
    towards its own by such a share, in (-1, 1), so that the masks' gradient teaches the choice. All shares are 0 at
    first.

    Args:
        num_layers (`int`): how many of the last layers are mixed, at least 2.
        hidden_size (`int`): of the language model.
    """

    def __init__(self, num_layers: int, hidden_size: int):
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(num_layers - 1, hidden_size))

    def forward(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            layers (`list[torch.Tensor]` of shape `(..., H)`): states at the same places, the last layer's first, which
                the language model has normalised; then those of the layers before it, which it has not.

        Returns:
            `torch.Tensor` of shape `(..., H)`.
        """
        last = layers[0].float()
        # Padding may have states of zeros, at which a root has no gradient.
        scale = (last.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
        mixed = last
        for gate, layer in zip(self.gates.float(), layers[1:], strict=True):
            own = F.rms_norm(layer.float(), layer.shape[-1:])
            share = torch.tanh((own * gate).sum(dim=-1, keepdim=True) / math.sqrt(layer.size(-1)))
            mixed = mixed + share * (own * scale - last)
        return mixed.to(layers[0].dtype)


class SpatialPrompt(nn.Module):
    """
    A prompt for every place of every frame, beside the one prompt of `[SEG]` for all of them.

    As in ALS3P the places that are similar to `[SEG]` are pointed out to SAM's decoder as a dense prompt. There the
    language model's tokens of the frames are compared with the state at `[SEG]`, each map is stretched to [0, 1], and
    SAM's own mask prompt reads it; here SAM's features are compared with the projected `[SEG]`, which needs no further
    tokens, the similarity stays as it is, so that a frame without the object stays dark, and a learned vector carries
    it into the features. The vector is 0 at first, and `[SEG]` is compared as it is.

    Args:
        width (`int`): of a prompt, and of the features that it meets.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(torch.eye(width))
        self.mark = nn.Parameter(torch.zeros(width))

    def forward(self, embeddings: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """
        Args:
            embeddings (`torch.Tensor` of shape `(B, T, E, h, w)`): frames of clips; the first `width` channels are
                the features that meet prompts.
            prompts (`torch.Tensor` of shape `(B, 1, width)`): the projected `[SEG]`.

        Returns:
            `torch.Tensor` of shape `(B, T, E, h, w)`: with the dense prompt added, as SAM's decoder adds its own.
        """
        width = self.mark.numel()
        features, finer = embeddings[:, :, :width], embeddings[:, :, width:]
        # About unit size, whatever the features' scale.
        query = F.linear(prompts[:, 0].to(self.query.dtype), self.query).to(features.dtype)
        similarity = torch.einsum("bc,btchw->bthw", query, features)
        similarity = similarity * torch.rsqrt(features.square().sum(dim=2) + 1e-12)
        marked = features + (similarity[:, :, None] * self.mark[:, None, None]).to(features.dtype)
        return torch.cat([marked, finer], dim=2) if finer.size(2) else marked


class Existence(nn.Linear):
    """
    Whether what the reference names is in the clip: a logit per state at `[SEG]`, 0 at first, which says that it is.

    A mask decoder has to draw nothing pixel by pixel where a reference matches nothing; GRES (Liu et al., 2023)
    predicts that in one number, and empties the mask by it.

    Args:
        hidden_size (`int`): of the language model.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, seg_states: torch.Tensor) -> torch.Tensor:
        """States `(..., H)` to logits `(...)`."""
        return super().forward(seg_states.to(self.weight.dtype))[..., 0]


def empty_absent(mask_logits: torch.Tensor, existence_logits: torch.Tensor | None) -> torch.Tensor:
    """
    Empty the masks of what is said not to be there.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., T, h, w)`): from the decoder.
        existence_logits (`torch.Tensor` of shape `(...)`, *optional*): below 0 where the object is not there; None
            leaves the masks as they are.

    Returns:
        `torch.Tensor` of shape `(..., T, h, w)`.
    """
    if existence_logits is None:
        return mask_logits
    return mask_logits.masked_fill((existence_logits < 0)[..., None, None, None], ABSENT_LOGIT)
