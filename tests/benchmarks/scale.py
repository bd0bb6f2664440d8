"""How a training step grows with G, prompt, completion, frames and image: what it holds in memory, and its time."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from setting import Ratio, bench_model, bench_processor
from transformers import Qwen2Config, Qwen2Model

from aurora_trl.models.configuration_aurora import SamConfig
from aurora_trl.models.mask_decoders import build_mask_decoder
from aurora_trl.models.shared_prefix import ATTENTION_NAME, shared_rows

PROMPT, COMPLETION = 2380, 150


def narrow_language_model() -> Qwen2Model:
    """Two layers: what grows with tokens does so in each of them alike."""
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        attn_implementation="sdpa",
    )
    model = Qwen2Model(config)
    model.config._attn_implementation = ATTENTION_NAME
    return model


def plain_forward(model: Qwen2Model, group: int, prompt: int, completion: int) -> torch.Tensor:
    """One row per completion, prompt and all."""
    embeds = torch.randn(1, prompt + completion, model.config.hidden_size).expand(group, -1, -1)
    return model(inputs_embeds=embeds, use_cache=False).last_hidden_state


def shared_forward(model: Qwen2Model, group: int, prompt: int, completion: int) -> torch.Tensor:
    """One row for all."""
    rows = shared_rows(
        torch.ones(1, prompt - 1, dtype=torch.long),
        torch.ones(group, completion + 1, dtype=torch.long),
        torch.zeros(group, dtype=torch.long),
    )
    segment = torch.arange(completion + 1) + prompt - 1
    return model(
        inputs_embeds=torch.randn(1, prompt - 1 + group * (completion + 1), model.config.hidden_size),
        position_ids=rows.join(torch.arange(prompt - 1)[None], segment.expand(group, -1)),
        attention_mask=rows.layout.segment_mask,
        shared_prefix=rows.layout,
        use_cache=False,
    ).last_hidden_state


def held_bytes(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> float:
    """Bytes that a forward holds for its backward, the weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # no other tensor takes its place in memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return float(sum(storages.values()))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    xs, ys = [math.log(x) for x in sizes], [math.log(y) for y in seconds]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def fastest(function: Callable[[], Any], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def growth(repeats: int = 2) -> list[dict[str, Any]]:
    """
    Time over a range of each size, with the exponent of the power law through it.

    Args:
        repeats (`int`): timed runs of each, of which the fastest counts.

    Returns:
        `list[dict]`: name, sizes, seconds, exponent.
    """
    model = narrow_language_model()
    processor = bench_processor()
    aurora = bench_model(processor)

    def step(group: int, prompt: int, completion: int) -> Callable[[], None]:
        return lambda: shared_forward(model, group, prompt, completion).sum().backward()

    @torch.no_grad()
    def towers(frames: int) -> Any:
        return aurora.base_model.encode_media(pixel_values_videos=torch.randn(1, frames, 3, 384, 384))

    @torch.no_grad()
    def mask_encoder(frames: int) -> Any:
        return aurora.encode_masks(torch.randn(1, frames, 3, 224, 224))

    def mask_encoder_at(side: int) -> Callable[[], Any]:
        sizes = {**aurora.config.mask_decoder_config.to_dict(), "image_size": side}
        decoder = build_mask_decoder(SamConfig(**sizes))
        frames = torch.randn(2, 3, side, side)
        return torch.no_grad()(lambda: decoder.encode(frames))

    ranges: dict[str, tuple[list[int], Callable[[int], Callable[[], Any]]]] = {
        "training step, G": ([4, 8, 16, 32], lambda size: step(size, PROMPT, COMPLETION)),
        "training step, tokens of the prompt": ([600, 1200, 2400, 4800], lambda size: step(4, size, COMPLETION)),
        "training step, tokens of a completion": ([75, 150, 300, 600], lambda size: step(4, PROMPT, size)),
        "vision tower and connector, frames": ([4, 8, 16], lambda size: lambda: towers(size)),
        "mask encoder, frames": ([5, 10, 20], lambda size: lambda: mask_encoder(size)),
        "mask encoder, side of the image in pixels": ([224, 448, 896], mask_encoder_at),
    }
    results = []
    for name, (sizes, make) in ranges.items():
        seconds = [fastest(make(size), repeats) for size in sizes]
        power = exponent(sizes, seconds)
        results.append({"name": name, "sizes": sizes, "seconds": seconds, "exponent": power})
        print(f"{name} {sizes}: grows by the power {power:.2f}", flush=True)
    return results


def peak_of_sam(clips: int, *, upstream: bool = False) -> float:
    """Bytes beside the weights, at the highest, while SAM's features of clips of two frames of 1,024 px are made."""
    script = Path(__file__).with_name("sam_peak.py")
    words = [str(clips), "1024", *(["upstream"] if upstream else [])]
    return float(subprocess.run([sys.executable, str(script), *words], capture_output=True, check=True).stdout)


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """Memory that a training forward holds, ours against one row per completion; and what SAM's features take."""
    model = narrow_language_model()
    ratios = []
    for group in (3, 8, 16, 32):
        before, after = (
            held_bytes(partial(forward, model, group, PROMPT, COMPLETION), model)
            for forward in (plain_forward, shared_forward)
        )
        ratios.append(Ratio(f"memory held for the backward / one row per completion, G = {group}", [before], [after]))
        print(f"{ratios[-1].name}: {ratios[-1].value:.3f}", flush=True)
    one, two, eight = (peak_of_sam(clips) for clips in (1, 2, 8))
    whole = peak_of_sam(2, upstream=True)
    ratios.append(Ratio("peak memory of SAM's features at 1,024 px, eight clips / one", [one], [eight], bound=1.5))
    ratios.append(Ratio("peak memory of SAM's features of two clips / upstream's, all at once", [whole], [two]))
    for ratio in ratios[-2:]:
        print(f"{ratio.name}: {ratio.value:.3f}", flush=True)
    return ratios
