"""What a host needs to start a token's step: of a language model of 28 layers too narrow to have work in them."""

import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from setting import Ratio, bench_model, bench_processor

from aurora_trl.generation.engines import recorded_generation
from aurora_trl.models.modeling_aurora import AuroraModel

LAYERS, TOKENS, ROWS, PROMPT = 28, 40, 6, 64


def narrow_model() -> AuroraModel:
    """The published classes, with the full model's number of layers in the language model and nothing beside it."""
    config = bench_model(bench_processor()).config
    text = config.policy_config.text_config
    text.update({"num_hidden_layers": LAYERS, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4})
    text.layer_types = ["full_attention"] * LAYERS
    return AuroraModel(config).eval()


def seconds_per_token(model: AuroraModel, engine: str, inputs: dict[str, Any]) -> float:
    """Of the steps after the prompt's: what many tokens take more than few."""

    def run(num_new: int) -> float:
        started = time.perf_counter()
        with torch.no_grad(), recorded_generation(model, engine):
            model.generate(**inputs, max_new_tokens=num_new, do_sample=True, eos_token_id=None)
        return time.perf_counter() - started

    return (run(TOKENS) - run(2)) / (TOKENS - 2)


def run(rows: Dataset, *, repeats: int = 3) -> list[Ratio]:
    """The compiled engine against transformers' loop, with an adapter beside the weights and without."""
    model = narrow_model()
    first = max(model.policy.media_token_ids) + 1
    inputs = {
        "input_ids": torch.randint(first, model.config.get_text_config().vocab_size, (ROWS, PROMPT)),
        "attention_mask": torch.ones(ROWS, PROMPT, dtype=torch.long),
        "pad_token_id": 0,
    }
    ratios = []
    for what in ("", ", with LoRA"):
        if what:
            get_peft_model(model, LoraConfig(r=4, target_modules=model.policy.lora_target_modules))
        times: dict[str, list[float]] = {"eager": [], "compiled": []}
        for engine in times:
            seconds_per_token(model, engine, inputs)  # compiles
        for _ in range(repeats):
            for engine, record in times.items():
                record.append(seconds_per_token(model, engine, inputs))
        ratios.append(Ratio(f"a token of 28 narrow layers{what}, compiled / eager", *times.values(), bound=0.5))
        print(f"{ratios[-1].name}: {ratios[-1].value:.3f}, {min(times['eager']) * 1000:.1f} ms eager", flush=True)
    return ratios
