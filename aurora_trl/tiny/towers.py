"""Towers that see and hear before the first phase, as those of a published policy do.

SigLIP and BEATs come trained on millions of images and sounds; the demo's start from random numbers. Taught through
the language model alone, they were the demo's bottleneck: after 600 steps it named half the colours, and rows and
loudness at chance. Here linear heads on the connectors' outputs, thrown away afterwards, ask directly what stands
where and what sounds how. The phases then train with frozen towers, as the paper's do.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from ..data.synthetic.labels import IGNORED, PLACE_LABELS, SOUND_LABELS, SOUND_STEPS, place_labels, sound_labels
from ..models.modeling_aurora import AuroraModel
from ..models.processing_aurora import AuroraProcessor
from ..progress import Progress

_STEPS_WEIGHT = 0.3  # of each quality of a sound, beside which sounds there are


@dataclass(frozen=True)
class LabelledClips:
    """
    The clips of a split as the towers take them, with what is true about each.

    Args:
        pixel_values_videos (`torch.Tensor` of shape `(C, T, 3, P, P)`): normalised frames.
        audio_values (`torch.Tensor` of shape `(C, F, M)`): normalised filter banks.
        places (`torch.Tensor` of shape `(C, 3, h, w)`): see `place_labels`.
        sounds (`torch.Tensor` of shape `(C, K, 5)`): see `sound_labels`.
    """

    pixel_values_videos: torch.Tensor
    audio_values: torch.Tensor
    places: torch.Tensor
    sounds: torch.Tensor

    def __len__(self) -> int:
        return self.places.size(0)

    def select(self, indices: torch.Tensor) -> "LabelledClips":
        """Some of the clips."""
        return LabelledClips(*(value[indices] for value in vars(self).values()))


def load_labelled_clips(
    processor: AuroraProcessor, world: str | Path, split: str, *, side: int, max_clips: int | None = None
) -> LabelledClips:
    """
    Read the clips of a split of a synthetic world, each once.

    Args:
        processor (`AuroraProcessor`): makes the inputs.
        world (`str` or `Path`): folder of a synthetic world.
        split (`str`): name of the split.
        side (`int`): rows and columns of the connector's grid.
        max_clips (`int`, *optional*): how many of them.

    Raises:
        `DataError`: where the folder is not a synthetic world, or media are missing or broken.
    """
    from ..data import load_refavs
    from ..data.schema import clip_key
    from ..data.synthetic import SyntheticAnnotator
    from ..generation.clip_loader import ClipLoader, stack_clips

    annotator, loader = SyntheticAnnotator(world), ClipLoader(processor)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {clip_key(row): row for row in load_refavs(world, split)}
    loader.mask_inputs = False
    chosen = list(rows.values())[:max_clips]
    progress = Progress(len(chosen), unit="clips")
    clips, places, sounds = [], [], []
    for row in chosen:
        objects = annotator.facts(row).objects
        clip = loader.clip(row)
        clips.append({name: clip[name] for name in ("pixel_values_videos", "audio_values")})
        places.append(place_labels(objects, side))
        sounds.append(sound_labels(objects))
        progress.step(f"reading {split}")
    return LabelledClips(**stack_clips(clips), places=torch.stack(places), sounds=torch.stack(sounds))


class TowerHeads(nn.Module):
    """
    Linear questions to the connectors' outputs.

    Args:
        width (`int`): of the language model.
    """

    def __init__(self, width: int):
        super().__init__()
        self.place_sizes = [len(values) + 1 for values in PLACE_LABELS.values()]
        self.place_head = nn.Linear(width, sum(self.place_sizes))
        self.sound_sizes = (len(SOUND_LABELS), 1 + sum(len(values) for values in SOUND_STEPS.values()))
        self.sound_head = nn.Linear(width, self.sound_sizes[0] * self.sound_sizes[1])

    def forward(
        self, video_embeds: torch.Tensor, audio_embeds: torch.Tensor, clips: LabelledClips
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """
        Args:
            video_embeds (`torch.Tensor` of shape `(C, h * w, D)`): places of one time step.
            audio_embeds (`torch.Tensor` of shape `(C, N, D)`).
            clips (`LabelledClips`): the truth.

        Returns:
            `tuple`: the loss, and the share of right answers by question.
        """
        right: dict[str, float] = {}
        losses = []
        # The language model's first layer normalises what it reads, too.
        logits = self.place_head(F.rms_norm(video_embeds, video_embeds.shape[-1:]))
        for i, (name, answers) in enumerate(zip(PLACE_LABELS, logits.split(self.place_sizes, dim=-1), strict=True)):
            labels = clips.places[:, i].flatten(1)  # (C, h * w)
            losses.append(F.cross_entropy(answers.transpose(1, 2), labels, ignore_index=IGNORED))
            right[name] = _share((answers.argmax(-1) == labels)[labels > 0])
        sounds = self.sound_head(F.rms_norm(audio_embeds, audio_embeds.shape[-1:]).mean(dim=1))
        heard, *steps = sounds.unflatten(-1, self.sound_sizes).split(
            [1, *(len(values) for values in SOUND_STEPS.values())], dim=-1
        )
        truth = clips.sounds[..., 0]  # (C, K)
        losses.append(F.binary_cross_entropy_with_logits(heard[..., 0], truth.float()))
        right["heard"] = _share((heard[..., 0] > 0) == (truth > 0))
        for i, (name, answers) in enumerate(zip(SOUND_STEPS, steps, strict=True)):
            labels = clips.sounds[..., 1 + i]
            if (labels != IGNORED).any():
                loss = F.cross_entropy(answers.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
                losses.append(_STEPS_WEIGHT * loss)
            right[name] = _share((answers.argmax(-1) == labels)[labels != IGNORED])
        return torch.stack(losses).sum(), right


def _share(hits: torch.Tensor) -> float:
    return hits.float().mean().item() if hits.numel() else float("nan")


def train_towers(
    model: AuroraModel,
    processor: AuroraProcessor,
    world: str | Path,
    *,
    steps: int = 2000,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> dict[str, float]:
    """
    Teach towers and connectors of a tiny model what there is in a synthetic world's train split.

    Args:
        model (`AuroraModel`): from `tiny_config`, changed in place.
        processor (`AuroraProcessor`): of the same.
        world (`str` or `Path`): folder of a synthetic world.
        steps, batch_size (`int`), learning_rate (`float`): of AdamW with a cosine.
        seed (`int`): of the heads and the order.

    Returns:
        `dict[str, float]`: the share of right answers on the val split by question; what is seen, where there is an
        object.

    Raises:
        `DataError`: where the folder is not a synthetic world, or media are missing or broken.
    """
    backbone = model.base_model
    vision = model.config.policy_config.vision_config
    side = vision.image_size // vision.patch_size // 2  # the connector halves it
    train = load_labelled_clips(processor, world, "train", side=side)
    val = load_labelled_clips(processor, world, "val", side=side, max_clips=200)

    generator = torch.Generator().manual_seed(seed)
    heads = TowerHeads(model.config.policy_config.text_config.hidden_size)
    groups = model.policy.trainable_modules()
    modules = [groups["vision_tower"], groups["audio_tower"], groups["connector"], heads]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(20, steps // 10), steps)

    def ask(clips: LabelledClips) -> tuple[torch.Tensor, dict[str, float]]:
        features = backbone.encode_media(
            pixel_values_videos=clips.pixel_values_videos, audio_values=clips.audio_values
        )
        first = features.video_embeds[:, : side * side]  # labels hold for the path's centre, whatever the time
        return heads(first, features.audio_embeds, clips)

    model.train()
    progress = Progress(steps, unit="steps")
    for _ in range(steps):
        loss, right = ask(train.select(torch.randint(len(train), (batch_size,), generator=generator)))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.step(f"towers, loss {loss.item():.2f}, colour {right['colour']:.2f}")
    model.eval()
    with torch.no_grad():
        _, right = ask(val)
    answers = ", ".join(f"{name} {share:.2f}" for name, share in right.items())
    sys.stderr.write(f"    towers, right on val: {answers}\n")
    return right
