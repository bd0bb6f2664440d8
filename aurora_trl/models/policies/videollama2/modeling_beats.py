"""BEATs, the audio tower: patches of a filter bank, deep-norm transformer with gated relative position bias."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_videollama2 import BeatsConfig


class WeightNormConv1d(nn.Module):
    """
    A convolution whose kernel is `g * v / |v|` with one length per kernel position, as the published weights hold it.

    They call the two `weight_v` and `weight_g`. Here these names would be taken for torch's weight norm and renamed by
    transformers where it loads under ZeRO-3 (5.23).

    Args:
        config (`BeatsConfig`): width, kernel and groups.
    """

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.groups, self.kernel = config.conv_pos_groups, config.conv_pos
        shape = (config.hidden_size, config.hidden_size // config.conv_pos_groups, config.conv_pos)
        self.direction = nn.Parameter(torch.empty(shape))
        self.length = nn.Parameter(torch.empty(1, 1, config.conv_pos))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, L, H)` to `(B, L, H)`."""
        direction = self.direction.float()  # thousands of squares are summed: too many for bfloat16
        norm = (direction.pow(2).sum(dim=(0, 1), keepdim=True) + 1e-6).rsqrt()
        weight = self.length * (direction * norm).to(self.direction.dtype)
        output = F.conv1d(
            hidden_states.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups
        )
        if self.kernel % 2 == 0:  # an even kernel gives one position too many
            output = output[..., :-1]
        return F.gelu(output).transpose(1, 2)


class BeatsAttention(nn.Module):
    """
    Self-attention with a bucketed relative position bias that each query gates.

    Args:
        config (`BeatsConfig`): width, heads and buckets.
        has_relative_bias (`bool`): whether this layer holds the table; the first does, the others use its bias.
    """

    def __init__(self, config: BeatsConfig, has_relative_bias: bool):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.grep_linear = nn.Linear(self.head_dim, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.num_heads, 1, 1))
        self.relative_attention_bias = nn.Embedding(config.num_buckets, self.num_heads) if has_relative_bias else None

    def position_bias(self, length: int) -> torch.Tensor:
        """The ungated bias of the table, `(heads, L, L)`."""
        assert self.relative_attention_bias is not None
        position = torch.arange(length, device=self.relative_attention_bias.weight.device)
        distance = position[None, :] - position[:, None]
        half = self.num_buckets // 2
        exact = half // 2
        buckets = (distance > 0).long() * half
        distance = distance.abs()
        # Half of each side's buckets are single distances, the other half grow with the logarithm.
        scale = math.log(self.max_distance / exact)
        large = exact + (torch.log(distance.clamp(min=1).float() / exact) / scale * (half - exact)).long()
        buckets = buckets + torch.where(distance < exact, distance, large.clamp(max=half - 1))
        return self.relative_attention_bias(buckets).permute(2, 0, 1)

    def forward(
        self, hidden_states: torch.Tensor, position_bias: torch.Tensor, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, L, H)`).
            position_bias (`torch.Tensor` of shape `(heads, L, L)`).
            real (`torch.Tensor` of shape `(B, L)`, bool, *optional*): false where there is padding.

        Returns:
            `torch.Tensor` of shape `(B, L, H)`.
        """
        batch_size, length, _ = hidden_states.shape
        heads = (batch_size, length, self.num_heads, self.head_dim)
        query, key, value = (
            proj(hidden_states).view(heads).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        # The gate reads the projected query: two sums of four channels each.
        gates = self.grep_linear(query)
        gate_a, gate_b = gates.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)  # (B, heads, L, 1)
        gate = gate_a * (gate_b * self.grep_a - 1.0) + 2.0
        bias = (gate * position_bias).to(query.dtype)
        if real is not None:
            bias = bias.masked_fill(~real[:, None, None, :], torch.finfo(bias.dtype).min)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(attended.transpose(1, 2).reshape(batch_size, length, -1))


class BeatsLayer(GradientCheckpointingLayer):
    """A post-norm block whose residual is scaled by `(2 N)^(1/4)` (deep norm)."""

    def __init__(self, config: BeatsConfig, index: int):
        super().__init__()
        self.self_attn = BeatsAttention(config, has_relative_bias=index == 0)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.deep_norm_alpha = math.pow(2 * config.num_hidden_layers, 0.25)

    def forward(
        self, hidden_states: torch.Tensor, position_bias: torch.Tensor, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, L, H)`, the bias `(heads, L, L)` and what is no padding `(B, L)` to `(B, L, H)`."""
        attended = self.self_attn(hidden_states, position_bias, real)
        hidden_states = self.self_attn_layer_norm(hidden_states * self.deep_norm_alpha + attended)
        expanded = self.fc2(F.gelu(self.fc1(hidden_states)))
        return self.final_layer_norm(hidden_states * self.deep_norm_alpha + expanded)


class BeatsEncoder(nn.Module):
    """Position convolution and layers; layer drop only where the encoder itself is in training mode."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.layerdrop = config.layerdrop
        self.pos_conv = WeightNormConv1d(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(BeatsLayer(config, i) for i in range(config.num_hidden_layers))

    def forward(self, hidden_states: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """`(B, L, H)` and, where there is padding, what is none `(B, L)` to `(B, L, H)`."""
        if real is not None:
            hidden_states = hidden_states * real[..., None]  # the convolution meets zeros, as past the end
        hidden_states = self.layer_norm(hidden_states + self.pos_conv(hidden_states))
        first: Any = self.layers[0]
        bias = first.self_attn.position_bias(hidden_states.size(1))
        for layer in self.layers:
            if self.training and self.layerdrop > 0 and torch.rand(()).item() < self.layerdrop:
                continue
            hidden_states = layer(hidden_states, bias, real)
        return hidden_states


class BeatsModel(nn.Module):
    """
    The audio tower. Parameter names follow the published ones.

    Args:
        config (`BeatsConfig`): sizes.
    """

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(
            1, config.embed_dim, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.layer_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.post_extract_proj = (
            nn.Linear(config.embed_dim, config.hidden_size) if config.embed_dim != config.hidden_size else None
        )
        self.encoder = BeatsEncoder(config)

    def forward(self, audio_values: torch.Tensor, audio_lengths: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            audio_values (`torch.Tensor` of shape `(B, frames, mel bins)`): a normalised filter bank.
            audio_lengths (`torch.Tensor` of shape `(B,)`, long, *optional*): how many frames are no padding; all by
                default.

        Returns:
            `torch.Tensor` of shape `(B, frames / patch * bins / patch, H)`: time-major.
        """
        patches = self.patch_embedding(audio_values[:, None].to(self.patch_embedding.weight.dtype))
        hidden_states = self.layer_norm(patches.flatten(2).transpose(1, 2))
        if self.post_extract_proj is not None:
            hidden_states = self.post_extract_proj(hidden_states)
        if audio_lengths is None:
            return self.encoder(hidden_states)
        # At least one patch: attention over nothing would be NaN where a clip has no sound at all.
        num_real = self.num_features(audio_lengths).clamp(min=patches.size(3))
        index = torch.arange(hidden_states.size(1), device=hidden_states.device)
        return self.encoder(hidden_states, index < num_real[:, None])

    def num_features(self, audio_lengths: torch.Tensor) -> torch.Tensor:
        """How many features a filter bank of so many frames gives."""
        patch = self.config.patch_size
        return audio_lengths // patch * (self.config.num_mel_bins // patch)
