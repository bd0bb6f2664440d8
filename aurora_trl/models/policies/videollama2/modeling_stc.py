"""The spatial-temporal connector (STC v3.5): RegNet stage, strided 3D convolution, RegNet stage, two linear layers."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of `(N, C, H, W)`."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNormAct(nn.Module):
    """Convolution without bias, layer norm, SiLU where asked. `conv` and `bn` are the published weights' names."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn = LayerNorm2d(out_channels, eps=1e-5)
        self.act = act

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.bn(self.conv(hidden_states))
        return F.silu(hidden_states) if self.act else hidden_states


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over the image."""

    def __init__(self, channels: int, reduced: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        pooled = hidden_states.mean((2, 3), keepdim=True)
        return hidden_states * self.fc2(F.silu(self.fc1(pooled))).sigmoid()


class RegNetBlock(nn.Module):
    """A bottleneck: 1x1, grouped 3x3, gates, 1x1, residual."""

    def __init__(self, in_channels: int, out_channels: int, group_width: int):
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels)
        self.conv2 = ConvNormAct(out_channels, out_channels, 3, groups=out_channels // group_width)
        self.se = SqueezeExcite(out_channels, round(in_channels * 0.25))
        self.conv3 = ConvNormAct(out_channels, out_channels, act=False)
        self.downsample = ConvNormAct(in_channels, out_channels, act=False) if in_channels != out_channels else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shortcut = hidden_states if self.downsample is None else self.downsample(hidden_states)
        return F.silu(self.conv3(self.se(self.conv2(self.conv1(hidden_states)))) + shortcut)


class RegNetStage(nn.Module):
    """`depth` blocks of stride 1, named `b1`, `b2`, …"""

    def __init__(self, in_channels: int, out_channels: int, depth: int, group_width: int):
        super().__init__()
        for i in range(depth):
            self.add_module(
                f"b{i + 1}", RegNetBlock(in_channels if i == 0 else out_channels, out_channels, group_width)
            )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.children():
            hidden_states = block(hidden_states)
        return hidden_states


class STCConnector(nn.Module):
    """
    Joins the vision tower to the language model.

    Args:
        in_channels (`int`): width of the tower.
        out_channels (`int`): width of the language model.
        depth (`int`): blocks of each stage.
        group_width (`int`): channels of a group of the 3x3 convolutions.
    """

    def __init__(self, *, in_channels: int, out_channels: int, depth: int, group_width: int):
        super().__init__()
        self.s1 = RegNetStage(in_channels, out_channels, depth, group_width)
        self.sampler = nn.Sequential(nn.Conv3d(out_channels, out_channels, kernel_size=2, stride=2), nn.SiLU())
        self.s2 = RegNetStage(out_channels, out_channels, depth, group_width)
        self.readout = nn.Sequential(
            nn.Linear(out_channels, out_channels), nn.GELU(), nn.Linear(out_channels, out_channels)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(B, T, N, C)`): N = h * w patch features of each frame.

        Returns:
            `torch.Tensor` of shape `(B, T // 2 * (h // 2) * (w // 2), D)`: time-major.
        """
        batch_size, num_frames, num_patches, _ = features.shape
        side = int(num_patches**0.5)
        grid = features.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))  # (B * T, C, h, w)
        grid = self.s1(grid).unflatten(0, (batch_size, num_frames)).transpose(1, 2)  # (B, D, T, h, w)
        grid = self.sampler(grid).transpose(1, 2)  # (B, T / 2, D, h / 2, w / 2)
        steps = grid.size(1)
        grid = self.s2(grid.flatten(0, 1)).unflatten(0, (batch_size, steps))
        return self.readout(grid.flatten(3).transpose(2, 3).flatten(1, 2))
