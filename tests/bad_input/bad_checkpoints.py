"""Checkpoints of a model, with its tokenizer and processor: `aurora segment` meets them all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from kinds import Kind, Place, cut, edit, edit_weights
from safetensors.torch import load_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def segment(place: Place, model: Path | str) -> list[str]:
    """Ask a model about a clip."""
    frames = [str(place.root / frame) for frame in place.clip(0)["frames"]]
    words = ["segment", "--model", str(model), "--reference", "the drum", "--frames", *frames]
    return [*words, "--output", str(place.root / "answer"), "--max-new-tokens", "2"]


def broken(name: str, spoil: Callable[[Place, Path], object], *named: str) -> Kind:
    """A whole checkpoint of which one thing is broken."""

    def command(place: Place) -> list[str]:
        model = place.model()
        spoil(place, model)
        return segment(place, model)

    return Kind(name, command, named)


def in_shards(model: Path, *, missing: str | None = None, promised: str | None = None, outside: bool = False) -> None:
    """Two shards and their index in place of one file."""
    weights = load_file(model / WEIGHTS)
    names = sorted(weights)
    shards = [f"{'../' * outside}model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    shutil.move(model / WEIGHTS, model / shards[0])
    shutil.copy(model / shards[0], model / shards[1])
    weight_map = {name: shards[i % 2] for i, name in enumerate(names)}
    weight_map |= {promised: shards[0]} if promised else {}
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if missing:
        (model / missing).unlink()


def without_seg(file: Path) -> None:
    content = json.loads(file.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[SEG]"]
    content["model"]["vocab"].pop("[SEG]", None)
    file.write_text(json.dumps(content))


def first(weights: dict[str, torch.Tensor]) -> str:
    return min(weights)


def set_first(value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Place, Path], object]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[first(weights)] = value(weights[first(weights)])

    return lambda place, model: edit_weights(model / WEIGHTS, change)


def text(name: str, content: str | bytes) -> Callable[[Place, Path], object]:
    """Another content for a file."""
    return lambda place, model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content)


def without(name: str) -> Callable[[Place, Path], object]:
    return lambda place, model: (model / name).unlink()


def shorter(name: str, share: float = 0.5) -> Callable[[Place, Path], object]:
    return lambda place, model: cut(model / name, share)


def changed(name: str, **changes: object) -> Callable[[Place, Path], object]:
    return lambda place, model: edit(model / name, **changes)


def pickled_alone(place: Place, model: Path) -> None:
    (model / WEIGHTS).unlink()
    place.torch_pickled(model / "pytorch_model.bin")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16060522904\n"
BLIND = "{{ messages[0].content[-1].text }}"
TEXT = "policy_config__text_config__"

KINDS = [
    # Weights
    broken("weights cut short", shorter(WEIGHTS), WEIGHTS, "cut short"),
    broken("weights cut inside the header", shorter(WEIGHTS, 0.001), WEIGHTS, "cut short"),
    broken("weights of no bytes", shorter(WEIGHTS, 0), WEIGHTS, "cut short"),
    broken("weights missing", without(WEIGHTS), WEIGHTS, "is missing"),
    broken("weights as a pointer of Git LFS", text(WEIGHTS, LFS), WEIGHTS, "git lfs pull"),
    broken("weights as a web page", text(WEIGHTS, "<html>404</html>"), WEIGHTS, "no safetensors file"),
    broken("weights as a pickle", lambda p, m: (m / WEIGHTS).write_bytes(p.pickled()), WEIGHTS, "a pickle"),
    broken("weights as torch's pickle", lambda p, m: p.torch_pickled(m / WEIGHTS), WEIGHTS, "a pickle"),
    broken("a pickle beside no weights", pickled_alone, "pytorch_model.bin", "a pickle"),
    broken("a weight of another shape", set_first(lambda w: torch.cat([w, w])), "mismatched keys", "in place of"),
    broken("a weight of whole numbers", set_first(lambda w: w.int()), "mismatched keys", "I32"),
    broken("a weight of no numbers", set_first(lambda w: w * float("nan")), "no numbers", "diverged"),
    broken("a weight missing", lambda p, m: edit_weights(m / WEIGHTS, lambda w: w.pop(first(w))), "missing keys"),
    broken(
        "a weight too many",
        lambda p, m: edit_weights(m / WEIGHTS, lambda w: w.update({"other.weight": torch.ones(2)})),
        "unexpected keys: other.weight",
    ),
    broken("a link to weights that are gone", lambda p, m: (without(WEIGHTS)(p, m), _dangle(m)), WEIGHTS, "missing"),
    # Shards
    broken("an index cut short", lambda p, m: (in_shards(m), cut(m / INDEX)), INDEX, "not valid JSON"),
    broken("an index that is a list", lambda p, m: (in_shards(m), text(INDEX, "[]")(p, m)), INDEX, "a list"),
    broken("an index without shards", lambda p, m: (in_shards(m), text(INDEX, "{}")(p, m)), INDEX, "`weight_map`"),
    broken(
        "a shard missing",
        lambda p, m: in_shards(m, missing="model-00002-of-00002.safetensors"),
        "model-00002-of-00002.safetensors: no such file",
    ),
    broken("a weight that no shard holds", lambda p, m: in_shards(m, promised="other.bias"), "promises other.bias"),
    broken("shards outside of the folder", lambda p, m: in_shards(m, outside=True), "../model-00001-of-00002"),
    # config.json and generation_config.json
    broken("no config", without("config.json"), "config.json is missing"),
    broken("a config cut short", shorter("config.json"), "config.json", "not valid JSON"),
    broken("a config that is a list", text("config.json", "[]"), "config.json", "holds a list"),
    broken("a config in UTF-16", text("config.json", "{}".encode("utf-16")), "config.json", "not text in UTF-8"),
    broken(
        "a config of a published policy", changed("config.json", model_type="qwen2_5_omni"), "qwen2_5_omni", "init"
    ),
    broken("a config of no type", changed("config.json", model_type=...), "config.json", "`model_type` is None"),
    broken("a config without a policy", changed("config.json", policy_config=...), "config.json", "no model"),
    broken("a policy that is a text", changed("config.json", policy_config="x"), "config.json", "no model"),
    broken(
        "a policy that does not see",
        changed("config.json", policy_config={"model_type": "gpt2"}),
        "config.json",
        "is not a policy",
    ),
    broken(
        "a mask decoder that is not known",
        changed("config.json", mask_decoder_config={"model_type": "nothing"}),
        "config.json",
        "nothing",
    ),
    broken("other sizes than the weights", changed("config.json", **{f"{TEXT}hidden_size": 96}), "mismatched keys"),
    broken(
        "more layers than there are", changed("config.json", **{f"{TEXT}num_hidden_layers": 5}), "config.json", "5"
    ),
    broken("a size that is a text", changed("config.json", **{f"{TEXT}hidden_size": "big"}), "hidden_size", "big"),
    broken("no attention heads", changed("config.json", **{f"{TEXT}num_attention_heads": 0}), "config.json"),
    broken("a type of numbers that torch lacks", changed("config.json", dtype="float12"), "config.json", "float12"),
    broken("a generation config cut short", shorter("generation_config.json"), "generation_config.json", "JSON"),
    broken("a generation config that is a list", text("generation_config.json", "[]"), "generation_config.json"),
    # The processor
    broken("no processor", without("aurora_processor.json"), "aurora_processor.json is missing"),
    broken("a processor cut short", shorter("aurora_processor.json"), "aurora_processor.json", "not valid JSON"),
    broken(
        "a processor of no policy",
        changed("aurora_processor.json", policy_processor_class=...),
        "aurora_processor.json",
        "`policy_processor_class`",
    ),
    broken(
        "a processor that is not known",
        changed("aurora_processor.json", policy_processor_class="OtherProcessor"),
        "OtherProcessor",
        "import its package",
    ),
    broken(
        "a setting that is not known",
        changed("aurora_processor.json", other=1),
        "aurora_processor.json",
        "'other'",
    ),
    *(
        broken(f"{key} of {value!r}", changed("aurora_processor.json", **{key: value}), "aurora_processor.json", key)
        for key, value in (
            ("num_frames", 0),
            ("num_frames", "ten"),
            ("policy_frames", 0),
            ("max_objects", "two"),
            ("mask_image_size", None),
            ("pixel_mean", [1, 2]),
            ("pixel_std", [0, 0, 0]),
            ("instruction", "What is it?"),
            ("instruction", "{clip} {reference}"),
        )
    ),
    *(
        broken(f"another model's {key}", changed(file, **{key: value}), f"`{key}` is", "load both")
        for file, key, value in (
            ("aurora_processor.json", "mask_image_size", 128),
            ("aurora_processor.json", "keep_aspect_ratio", False),
            ("config.json", "seg_token_id", 3),
        )
    ),
    broken("no policy's settings", without("processor_config.json"), "processor_config.json missing"),
    broken("policy's settings cut short", shorter("processor_config.json"), "processor_config.json", "not valid JSON"),
    # The tokenizer
    broken("no tokenizer config", without("tokenizer_config.json"), "tokenizer_config.json is missing"),
    broken("a tokenizer config cut short", shorter("tokenizer_config.json"), "tokenizer_config.json", "JSON"),
    broken("a tokenizer without an end", changed("tokenizer_config.json", eos_token=...), "`eos_token`"),
    broken("a tokenizer without padding", changed("tokenizer_config.json", pad_token=...), "`pad_token`"),
    broken("no tokenizer", without("tokenizer.json"), "tokenizer.json missing"),
    broken("a tokenizer cut short", shorter("tokenizer.json"), "tokenizer.json", "not valid JSON"),
    broken("a tokenizer without [SEG]", lambda p, m: without_seg(m / "tokenizer.json"), "no [SEG] token"),
    broken("no chat template", without("chat_template.jinja"), "`chat_template`"),
    broken("a chat template cut short", shorter("chat_template.jinja"), "chat template can not be run"),
    broken("a chat template without the clip", text("chat_template.jinja", BLIND), "chat template leaves"),
    broken("a chat template of bytes", text("chat_template.jinja", b"\xff\xfe\x00"), "model"),
    # The folder
    broken("an empty folder", lambda p, m: (shutil.rmtree(m), m.mkdir()), "aurora_processor.json is missing"),
    broken("a file in place of a folder", lambda p, m: (shutil.rmtree(m), m.write_text("x")), "model", "it is a file"),
    Kind(
        "a mistyped folder",
        lambda place: (place.model(), segment(place, place.root / "modle"))[1],
        ("modle: no such folder", "did you mean", "/model?"),
    ),
    Kind("a mistyped name", lambda place: segment(place, "outputs/sftt"), ("outputs/sftt: no such folder",)),
    Kind("no name", lambda place: segment(place, ""), ("no such folder",)),
]


def _dangle(model: Path) -> None:
    (model / WEIGHTS).symlink_to("/nowhere/weights")
