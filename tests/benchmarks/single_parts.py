"""The parts: F, decoding, loading, features from disk."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from setting import Ratio, bench_model, bench_processor, compare

from aurora_trl import AuroraModel
from aurora_trl.data.media.video import index_video, read_frames
from aurora_trl.evaluation.metrics import f_score
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.generation.collators import SFTCollator
from aurora_trl.generation.feature_store import FeatureStore

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))  # run by itself, not by pytest
from videos import write_clip  # noqa: E402


def naive_f(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """F by comparing all pixels with every threshold."""
    probabilities = torch.sigmoid(logits)
    curves = []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        positive = (probabilities >= threshold).float()
        true_positive = (positive * masks).sum((1, 2))
        precision = true_positive / (positive.sum((1, 2)) + 1e-20)
        recall = true_positive / (masks.sum((1, 2)) + 1e-20)
        curves.append(1.3 * precision * recall / (0.3 * precision + recall))
    return torch.nan_to_num(torch.stack(curves), nan=0.0).mean(1).max()


def from_disk(model: AuroraModel, *, repeats: int) -> Ratio:
    """The mask encoder's features of one clip."""
    frames = torch.randn(1, 10, 3, 224, 224)

    @torch.no_grad()
    def computed() -> Any:
        return model.encode_masks(frames)

    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder)
        store.write("clip", computed()[0])
        return compare(
            "a clip's SAM features from disk / computed", computed, lambda: store.read("clip"), repeats=repeats
        )


def from_video(*, repeats: int) -> Ratio:
    """Ten frames of a long video, which is not decoded whole for them."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_clip(f"{folder}/a.mp4", [20 + i % 200 for i in range(1500)], gop=15, size=(144, 192))
        index = index_video(path)
        return compare(
            "ten frames of a long video / all 1,500",
            lambda: read_frames(path, index, range(1500)),
            lambda: read_frames(path, index, index.spread(10)),
            repeats=repeats,
            bound=0.4,
        )


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """Compare the parts."""
    processor = bench_processor()
    model = bench_model(processor)
    decoder = model.mask_decoder
    num_masks = 80  # G = 8 completions, 10 frames
    prompts = torch.randn(num_masks, 1, decoder.prompt_dim)
    with torch.no_grad():
        embeddings = decoder.encode(torch.randn(10, 3, 224, 224)).repeat(8, 1, 1, 1)

    @torch.no_grad()
    def one_by_one() -> Any:
        return [decoder.decode(embeddings[i : i + 1], prompts[i : i + 1]) for i in range(num_masks)]

    @torch.no_grad()
    def at_once() -> Any:
        return decoder.decode(embeddings, prompts)

    logits, masks = 3 * torch.randn(40, 256, 256), (torch.rand(40, 256, 256) > 0.8).float()
    row = rows[0]
    loaded = SFTCollator(ClipLoader(processor))([row])
    seg_inputs = {name: value for name, value in loaded.items() if name != "masks"}

    def step() -> None:
        output = model(**seg_inputs)
        (output.loss + output["mask_logits"].mean()).backward()
        model.zero_grad()

    return [
        compare(
            "official F of a batch / 255 comparisons",
            lambda: naive_f(logits, masks),
            lambda: f_score(logits, masks),
            repeats=repeats,
            bound=0.02,
        ),
        compare(f"{num_masks} masks in one decode / one by one", one_by_one, at_once, repeats=repeats, bound=1.0),
        compare(
            "loading one reference's clip, one worker / the step it feeds",
            step,
            lambda: SFTCollator(ClipLoader(processor))([row]),
            repeats=repeats,
            bound=0.10,  # two workers load while one step runs: half of it is waited for at most
        ),
        from_disk(model, repeats=repeats),
        from_video(repeats=repeats),
    ]
