"""The Hub: a model card that says what a folder holds, and the push of that folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ...disk import written_whole
from ...errors import DataError
from ...text_files import read_json, read_text, read_yaml
from ..configuration_aurora import model_class
from ..processing_aurora import AuroraProcessor
from .adapters import RECORD_FILE, check_adapter_files
from .own_files import CONFIG_FILE, HTTPError, check_checkpoint, one_line

CARD_FILE = "README.md"
# The settings of a phase, in its output folder.
RECIPE_FILE = "recipe.yaml"
# A card without this line was written by someone else, and is left as it is.
CARD_MARK = "<!-- Written by aurora_trl; `aurora push` writes it again. Take this line out to keep your changes. -->"
TAGS = ("aurora", "reasoning-segmentation", "audio-visual-segmentation", "trl")
# What is not part of the model: other checkpoints, logs, and pickled settings that only the machine itself needs.
NOT_PUSHED = ("checkpoint-*/**", "training_args.bin", "runs/**", ".*", "_*")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

CITATION = """@article{luo2025aurora,
  title  = {AURORA: Augmented Understanding via Structured Reasoning and Reinforcement Learning for Reference
            Audio-Visual Segmentation},
  author = {Luo, Ziyang and Liu, Nian and Khan, Fahad Shahbaz and Han, Junwei},
  year   = {2025}
}"""

# Policy architectures by `model_type`: their name and the licence of the published weights.
# None: it differs by size, or has terms of its own, and only the base's own card knows.
POLICIES: dict[str | None, tuple[str, str | None]] = {
    "aurora_videollama2": ("VideoLLaMA2.1-AV", "Apache-2.0"),
    "aurora_qwen2_5_omni": ("Qwen2.5-Omni", None),
    "aurora_qwen2_5_vl": ("Qwen2.5-VL", None),
    "aurora_qwen3_vl": ("Qwen3-VL", "Apache-2.0"),
    "aurora_qwen3_omni_moe": ("Qwen3-Omni", None),
    "aurora_video_llama_3": ("VideoLLaMA3", None),
}


def write_model_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    method: str | None = None,
    evaluation: str | Path | None = None,
) -> Path:
    """
    Write `README.md` from what a phase's output folder holds.

    Args:
        folder (`str` or `Path`): a phase's output folder.
        repo_id (`str`, *optional*): where it is pushed to; the folder's name stands in its place.
        method (`str`, *optional*): the trainer's name; that of the recipe by default.
        evaluation (`str` or `Path`, *optional*): folder with `metrics.json`; by default the folder itself, or
            `../eval/NAME`, where a chain leaves it.

    Returns:
        `Path`: the card.

    Raises:
        `DataError`: where the folder is no checkpoint, or the evaluation holds no scores.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise DataError(f"{folder}/{CONFIG_FILE}: no such file; name the output folder of a phase")
    config = read_json(folder / CONFIG_FILE)
    record = _read_json(folder / RECORD_FILE)
    recipe_file = folder / RECIPE_FILE
    recipe = _read_recipe(recipe_file) if recipe_file.is_file() else {}
    name = repo_id or folder.resolve().name
    base = (record or {}).get("base_model_name_or_path") or recipe.get("model_name_or_path")
    policy, license_name = POLICIES.get(config.get("policy_config", {}).get("model_type"), ("policy", None))
    sections = [
        _front_matter(base, license_name),
        CARD_MARK,
        f"# {name.split('/')[-1]}",
        f"An audio-visual language model ({policy}) that reasons about a clip and segments what it reasoned about. It "
        "writes its reasoning, ends with `It is [SEG].`, and the hidden state at `[SEG]` prompts the mask decoder of "
        "SAM, one mask per frame. Made with aurora_trl.",
        _use(name, base if record else None),
        _training(folder, base, recipe, recipe_file, method),
        _scores(folder, evaluation),
        _licenses(policy, license_name, base),
        f"## Citation\n\nThe method:\n\n```bibtex\n{CITATION}\n```",
    ]
    card = folder / CARD_FILE
    with written_whole(card) as file:
        file.write("\n\n".join(sections) + "\n")
    return card


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    evaluation: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Push a checkpoint's folder with its processor and a model card.

    Args:
        folder (`str` or `Path`): a phase's output folder; earlier checkpoints in it stay behind.
        repo_id (`str`): `namespace/name`; made where it does not exist.
        private (`bool`, *optional*): for a new repository.
        evaluation (`str` or `Path`, *optional*): folder with `metrics.json`, see `write_model_card`.
        revision (`str`, *optional*): branch.
        token (`str`, *optional*): the one that was logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        `DataError`: where the folder is not whole, or an adapter whose base is on this machine alone.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    check_pushable(folder)
    card = folder / CARD_FILE
    if not card.is_file() or not is_foreign_card(card):
        write_model_card(folder, repo_id=repo_id, evaluation=evaluation)
    elif evaluation is not None:
        raise DataError(f"{card}: was not written by aurora_trl and is left as it is; add the scores to it by hand")
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message="Upload an AuroraModel with aurora_trl",
            ignore_patterns=list(NOT_PUSHED),
        )
    except HTTPError as error:  # those without an answer are no `OSError`
        raise DataError(f"{repo_id}: the Hub did not take it: {one_line(error)}; push again") from error
    return str(commit.commit_url)


def check_pushable(folder: Path) -> None:
    """Raise `DataError` for a folder that nobody could load from the Hub."""
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise DataError(f"{folder}: holds no {WEIGHT_FILES[0]} and no adapter; name the output folder of a phase")
    if not (folder / "aurora_processor.json").is_file():
        raise DataError(f"{folder}: aurora_processor.json is missing; save the processor into the same folder")
    if (folder / RECORD_FILE).is_file():
        check_base_is_public(str(folder), check_adapter_files(str(folder))[0].base_model_name_or_path)
    else:
        check_checkpoint(model_class(), str(folder))
    AuroraProcessor.from_pretrained(folder)


def check_base_is_public(what: str, base: str) -> None:
    """Raise `DataError` where an adapter that goes to the Hub stands on a folder of this machine."""
    if Path(base).exists() or base.count("/") != 1:
        raise DataError(
            f"{what}: an adapter whose base {base} is a folder of this machine: nobody else could load it; push the "
            "whole model that `aurora merge` writes, or push the base first and train from its repository"
        )


def is_foreign_card(card: Path) -> bool:
    """Whether a card was written or kept by the user; PEFT's empty form is nobody's."""
    text = read_text(card)
    return CARD_MARK not in text and "# Model Card for Model ID" not in text


def _front_matter(base: str | None, license_name: str | None) -> str:
    meta: dict[str, Any] = {"library_name": "aurora_trl", "pipeline_tag": "mask-generation", "tags": list(TAGS)}
    meta["license"] = "apache-2.0" if license_name == "Apache-2.0" else "other"
    if meta["license"] == "other":
        meta["license_name"] = "that-of-the-policy"
    if base is not None and not Path(base).exists() and base.count("/") == 1:
        meta["base_model"] = base
    return f"---\n{yaml.safe_dump(meta, sort_keys=False)}---"


def _use(name: str, adapter_base: str | None) -> str:
    text = f"""## Use

```python
from aurora_trl import AuroraPipeline

pipe = AuroraPipeline.from_pretrained("{name}")
result = pipe(video="clip.mp4", reference="the object that starts to sound first")
print(result.reasoning, result.class_name)
print(result.masks.shape)  # (T, H, W), 0 or 1, at the frames `result.frame_indices`
```

or `aurora segment --model {name} --video clip.mp4 --reference "…" --output DIR`. After `import aurora_trl`,
`AutoModel` and `AutoProcessor` load it too."""
    if adapter_base is not None:
        text += (
            f"\n\nThis is an adapter: `from_pretrained` loads its base, `{adapter_base}`, checks that it is the one "
            "that was trained on, and merges them."
        )
    return text


def _training(folder: Path, base: str | None, recipe: dict[str, Any], recipe_file: Path, method: str | None) -> str:
    lines = ["## Training", ""]
    if base is not None:
        lines.append(f"* From: `{base}`")
    for key, what in (("teacher_model_name_or_path", "Teacher"), ("dataset_path", "On")):
        if recipe.get(key):
            split = f", split `{recipe.get('train_split', 'train')}`" if key == "dataset_path" else ""
            lines.append(f"* {what}: `{recipe[key]}`{split}")
    for entry in recipe.get("datasets") or ():
        lines.append(f"* On: `{entry.get('path')}`, weight {entry.get('weight', 1)}")
    state = _read_json(folder / "trainer_state.json")
    if state is not None:
        epochs = f", {state['epoch']:.2f} epochs" if isinstance(state.get("epoch"), float) else ""
        lines.append(f"* Steps: {state.get('global_step')}{epochs}")
    if method is not None:
        lines.append(f"* Trainer: {method}")
    if recipe:
        lines += ["", "The recipe, flags included:", "", "```yaml", read_text(recipe_file).strip(), "```"]
    if len(lines) == 2:
        lines.append("The folder does not say what it was trained from and on.")
    return "\n".join(lines)


def _scores(folder: Path, evaluation: str | Path | None) -> str:
    if evaluation is not None and not (Path(evaluation) / "metrics.json").is_file():
        raise DataError(f"{evaluation}/metrics.json: no such file; `aurora evaluate` writes it")
    folders = [folder, folder.resolve().parent / "eval" / folder.resolve().name]
    if evaluation is not None:
        folders = [Path(evaluation)]
    file = next((folder / "metrics.json" for folder in folders if (folder / "metrics.json").is_file()), None)
    if file is None:
        return "## Scores\n\nNot evaluated."
    metrics = read_json(file)
    if not isinstance(metrics.get("splits"), dict) or "protocol" not in metrics:
        raise DataError(f"{file}: it has no scores by split; evaluate the checkpoint again")
    columns = ("J", "F", "J&F", "S", "class_accuracy")
    unused = {True: ("J", "F", "J&F", "class_accuracy"), False: ("S",)}  # by whether a split holds null rows alone
    lines = [
        f"## Scores\n\nProtocol `{metrics['protocol']}`; S is for references to nothing, and lower is better.\n",
        "| split | rows | J | F | J&F | S | right class |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for split, scores in metrics["splits"].items():
        if not isinstance(scores, dict):
            raise DataError(f"{file}: the scores of {split} are {scores!r}; evaluate the checkpoint again")
        shown = [name for name in columns if name not in unused[split == "test_n"]]
        values = (f"{scores[name]:.3f}" if name in shown and name in scores else "" for name in columns)
        lines.append(_table_row([split, str(scores.get("rows", "")), *values]))
    return "\n".join(lines)


def _table_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _licenses(policy: str, license_name: str | None, base: str | None) -> str:
    origin = f", see also the card of `{base}`" if base else ""
    return "\n".join(
        [
            "## Licences of the parts",
            "",
            f"* Policy, {policy}: {license_name or 'that of the weights it was built from'}{origin}",
            "* Mask decoder, Segment Anything: Apache-2.0",
            "* aurora_trl, which trained it: Apache-2.0",
            "",
            "The data that it was trained on has a licence of its own.",
        ]
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _read_recipe(file: Path) -> dict[str, Any]:
    try:
        return read_yaml(file)
    except DataError as error:
        raise DataError(f"{error}; restore it, or take it away") from None
