"""Adapters, which `aurora merge` meets, and what `aurora push`, `aurora init` and `aurora report` are given."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from bad_checkpoints import changed, shorter, text, without
from kinds import Kind, Place, edit_weights

WEIGHTS, RECORD, CONFIG = "adapter_model.safetensors", "aurora_adapter.json", "adapter_config.json"


def broken(name: str, spoil: Callable[[Place, Path], object], *named: str, flags: tuple[str, ...] = ()) -> Kind:
    """A whole adapter of which one thing is broken."""

    def command(place: Place) -> list[str]:
        adapter = place.adapter()
        spoil(place, adapter)
        return ["merge", str(adapter), "--output", str(place.root / "merged"), *flags]

    return Kind(name, command, named)


def pushed(name: str, spoil: Callable[[Place, Path], object], *named: str, flags: tuple[str, ...] = ()) -> Kind:
    """A whole checkpoint to push, of which one thing is broken."""

    def command(place: Place) -> list[str]:
        model = place.model()
        spoil(place, model)
        return ["push", str(model), "someone/something", *flags]

    return Kind(name, command, named)


def wider(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if "lora_A" in name]:
        weights[name] = torch.cat([weights[name], weights[name]])


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    name = min(name for name in weights if "lora_B" in name)
    weights[name] = weights[name] * float("nan")


def pickled_alone(place: Place, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    place.torch_pickled(adapter / "adapter_model.bin")


def mistyped_base(place: Place) -> list[str]:
    place.model()
    merge = ["merge", str(place.adapter()), "--output", str(place.root / "merged")]
    return [*merge, "--base", str(place.root / "modle")]


METRICS = {
    "protocol": "refavs",
    "splits": {"test_s": {"J": 0.5, "F": 0.5, "J&F": 0.5, "rows": 1, "mean_tokens": 3.0, "by_kind": {}}},
    "swaps": {},
}
ANSWER = {
    "id": "row_0",
    "split": "train",
    "swap": None,
    "j": 0.5,
    "reference": "the drum",
    "class_name": "drum",
    "completion": "It is [SEG].",
    "masks": [],
}
UNMASKED = {key: value for key, value in ANSWER.items() if key != "masks"}


def reported(name: str, files: dict[str, object], *named: str) -> Kind:
    """A chain's folder with an evaluation, of which files hold something else; `None` leaves one out."""

    def command(place: Place) -> list[str]:
        rows = place.rows(split="test_s")
        whole: dict[str, object] = {"eval/sft/metrics.json": METRICS, "eval/sft/answers.jsonl": ANSWER, **files}
        for path, content in whole.items():
            if content is not None:
                place.write(f"chain/{path}", content if isinstance(content, str) else json.dumps(content))
        return ["report", str(place.root / "chain"), "--phases", "sft", "--data", str(rows)]

    return Kind(name, command, named)


def init(name: str, decoder: Callable[[Place], Path], *named: str, policy: str = "nothing/here") -> Kind:
    def command(place: Place) -> list[str]:
        words = ["init", policy.replace("ROOT", str(place.root)), "--mask-decoder", str(decoder(place))]
        return [*words, "--output", str(place.root / "new")]

    return Kind(name, command, named)


def lacking(key: str) -> dict[str, object]:
    scores = {name: value for name, value in METRICS["splits"]["test_s"].items() if name != key}
    return {**METRICS, "splits": {"test_s": scores}}


KINDS = [
    broken("an adapter cut short", shorter(WEIGHTS), WEIGHTS, "cut short"),
    broken("an adapter without weights", without(WEIGHTS), f"{WEIGHTS} is missing"),
    broken("an adapter as a pickle", pickled_alone, "adapter_model.bin", "a pickle"),
    broken("a pickle as an adapter", lambda p, a: (a / WEIGHTS).write_bytes(p.pickled()), WEIGHTS, "a pickle"),
    broken("an adapter of another rank", lambda p, a: edit_weights(a / WEIGHTS, wider), WEIGHTS, "size mismatch"),
    broken(
        "an adapter that lacks a weight",
        lambda p, a: edit_weights(a / WEIGHTS, lambda w: w.pop(min(n for n in w if "lora_A" in n))),
        WEIGHTS,
        "missing",
        "lora_A",
    ),
    broken(
        "an adapter with a weight too many",
        lambda p, a: edit_weights(a / WEIGHTS, lambda w: w.update({"other.lora_A.weight": torch.ones(2, 2)})),
        WEIGHTS,
        "unexpected",
    ),
    broken(
        "an adapter of no numbers",
        lambda p, a: edit_weights(a / WEIGHTS, not_a_number),
        "adapter",
        "no numbers",
    ),
    broken(
        "an adapter beside a whole model",
        lambda p, a: shutil.copy(p.model() / "model.safetensors", a),
        "holds an adapter and model.safetensors",
    ),
    broken("an adapter's config cut short", shorter(CONFIG), CONFIG, "not valid JSON"),
    broken("an adapter's config that is a list", text(CONFIG, "[]"), CONFIG, "holds a list"),
    broken("an adapter that is not LoRA", changed(CONFIG, peft_type="IA3"), CONFIG, "'IA3'"),
    broken("an adapter for other layers", changed(CONFIG, target_modules="nothing"), "adapter", "target_modules"),
    broken("an adapter of rank 0", changed(CONFIG, r=0), "adapter", "`r`"),
    broken("no record of the base", without(RECORD), f"{RECORD} is missing"),
    broken("a record cut short", shorter(RECORD), RECORD, "not valid JSON"),
    broken("a record of nothing", text(RECORD, "{}"), RECORD, "base_model_name_or_path"),
    broken("a base that is gone", changed(RECORD, base_model_name_or_path="/gone/base"), "/gone/base: no such folder"),
    broken("another base", changed(RECORD, base_weights="0" * 64), "another base", "weights"),
    Kind("a base that is mistyped", mistyped_base, ("modle: no such folder", "did you mean")),
    broken("no adapter", lambda p, a: [(a / f).unlink() for f in (CONFIG, WEIGHTS)], "holds no adapter"),
    broken("no size of shards", lambda p, a: None, "--max-shard-size", "'big'", flags=("--max-shard-size", "big")),
    # Pushed
    pushed("a broken checkpoint to push", shorter("model.safetensors"), "model.safetensors", "cut short"),
    pushed("a checkpoint without a tokenizer to push", without("tokenizer_config.json"), "tokenizer_config.json"),
    pushed("a recipe that is no YAML to push", text("recipe.yaml", "a: [1"), "recipe.yaml", "not valid YAML"),
    pushed("a recipe of a list to push", text("recipe.yaml", "[1]"), "recipe.yaml", "a mapping"),
    pushed("scores cut short to push", text("metrics.json", '{"splits"'), "metrics.json", "not valid JSON"),
    pushed("scores of nothing to push", text("metrics.json", "{}"), "metrics.json", "no scores"),
    pushed("a trainer's state cut short to push", text("trainer_state.json", "{"), "trainer_state.json", "JSON"),
    pushed("no Hub to push to", lambda p, m: None, "offline"),
    pushed("an empty folder to push", lambda p, m: (shutil.rmtree(m), m.mkdir()), "holds no model.safetensors"),
    Kind("no name to push to", lambda p: ["push", str(p.model()), "a b/c"], ("'a b/c'",)),
    # Reported
    reported("no scores to report", {"eval/sft/metrics.json": None}, "metrics.json: no such file", "aurora evaluate"),
    reported("scores cut short to report", {"eval/sft/metrics.json": '{"a'}, "metrics.json", "not valid JSON"),
    reported("scores of no protocol", {"eval/sft/metrics.json": {**METRICS, "protocol": "other"}}, "'other'"),
    reported("scores of no split", {"eval/sft/metrics.json": {**METRICS, "splits": {}}}, "metrics.json", "by split"),
    *(
        reported(f"scores without {key}", {"eval/sft/metrics.json": lacking(key)}, "metrics.json", f"`{key}`")
        for key in ("J", "rows", "by_kind")
    ),
    reported("no answers to report", {"eval/sft/answers.jsonl": None}, "answers.jsonl", "no such file"),
    reported("answers cut short", {"eval/sft/answers.jsonl": '{"id": "row'}, "answers.jsonl, line 1"),
    reported("an answer without a mask", {"eval/sft/answers.jsonl": UNMASKED}, "line 1", "`masks`"),
    reported("a log cut short", {"sft/trainer_state.json": '{"log'}, "trainer_state.json", "not valid JSON"),
    reported("no log", {"sft/trainer_state.json": {}}, "trainer_state.json", "`log_history`"),
    reported("a step's record cut short", {".pipeline/sft.json": "{"}, "sft.json", "not valid JSON"),
    # Built from parts
    init("no policy", lambda p: p.write("sam.pth"), "nothing/here: no such folder"),
    init("a policy without a config", lambda p: p.write("sam.pth"), "config.json: no such file", policy="ROOT"),
]
