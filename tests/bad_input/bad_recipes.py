"""Recipes of a phase, and chains of phases."""

import json

from bad_checkpoints import changed, shorter
from kinds import Kind, Place

GRPO = {"per_device_train_batch_size": 3, "num_generations": 3}


def recipe(name: str, text: str = "", *named: str, script: str = "sft", **settings: object) -> Kind:
    """A recipe with other settings, or with a text behind it; `...` leaves a key out."""

    def command(place: Place) -> list[str]:
        return [script, "--config", str(place.recipe(text, **settings))]

    return Kind(name, command, named)


def model(name: str, spoil, *named: str, script: str = "sft") -> Kind:
    """A recipe that starts from a broken checkpoint."""

    def command(place: Place) -> list[str]:
        folder = place.model()
        spoil(place, folder)
        return [
            script,
            "--config",
            str(place.recipe(model_name_or_path=str(folder), **(GRPO if script == "grpo" else {}))),
        ]

    return Kind(name, command, named)


def occupied(place: Place) -> list[str]:
    """An output folder that holds a model."""
    place.write("out/model.safetensors")
    return ["sft", "--config", str(place.recipe())]


def rows(name: str, change: dict[str, object], *named: str) -> Kind:
    def command(place: Place) -> list[str]:
        place.rows({}, change)
        return ["sft", "--config", str(place.recipe())]

    return Kind(name, command, named)


def of_world(place: Place, **settings: object) -> list[str]:
    return ["sft", "--config", str(place.recipe(dataset_path=str(place.world), **settings))]


def damaged(place: Place, workers: int) -> list[str]:
    """A frame whose header and end are whole, so that it is found out when its batch is read."""
    clip = place.clip(1)
    path = place.root / clip["masks"][0]
    content = path.read_bytes()
    middle = content.index(b"IDAT") + 8
    frame = place.write("clip_1/damaged.png", content[:middle] + b"\x00" * 8 + content[middle + 8 :])
    frames = {"frames": [f"clip_1/{frame.name}"] * 3}
    place.rows(frames, frames)
    return ["sft", "--config", str(place.recipe(dataloader_num_workers=workers))]


STEP = {"name": "data", "run": "aurora synth {output_dir}/data --clips 5", "makes": "data"}


def chain(name: str, content: object, *named: str, flags: tuple[str, ...] = ("--dry-run",)) -> Kind:
    """A chain of one step; a mapping gives its step other keys."""

    def command(place: Place) -> list[str]:
        whole = content
        if isinstance(content, dict) and not {"steps", "output_dir"} & set(content):
            step = {key: value for key, value in {**STEP, **content}.items() if value is not ...}
            whole = {"output_dir": str(place.root / "chain"), "steps": [step]}
        text = whole if isinstance(whole, (str, bytes)) else json.dumps(whole)
        return ["run", str(place.write("chain.yaml", text)), *flags]

    return Kind(name, command, ("chain.yaml", *named))


def recorded(place: Place) -> list[str]:
    """A chain whose record of a step was cut short."""
    place.write("chain/.pipeline/data.json", '{"finger')
    whole = {"output_dir": str(place.root / "chain"), "steps": [STEP]}
    return ["run", str(place.write("chain.yaml", json.dumps(whole)))]


KINDS = [
    # A phase's YAML
    Kind("no such recipe", lambda p: ["sft", "--config", f"{p.root}/gone.yaml"], ("gone.yaml: no such recipe",)),
    Kind("a recipe that is no YAML", lambda p: ["sft", "--config", str(p.write("a.yaml", "a: [1"))], ("a.yaml",)),
    Kind("a recipe that is a list", lambda p: ["sft", "--config", str(p.write("a.yaml", "[1]"))], ("a.yaml", "keys")),
    Kind("an empty recipe", lambda p: ["sft", "--config", str(p.write("a.yaml", ""))], ("a.yaml", "keys")),
    Kind("no recipe at all", lambda p: ["sft", "--learning_rate", "1"], ("--help",)),
    recipe("a key that is mistyped", "learning_rat: 1", "recipe.yaml", "`learning_rat`", "learning_rate"),
    recipe("a key of the other phase", "reward_functions: [x]", "recipe.yaml", "`reward_functions`"),
    recipe("a number that is a text", "", "recipe.yaml", "many", max_steps="many"),
    recipe("a target that is not known", "", "recipe.yaml", "targets", targets="other"),
    recipe("a format that no data have", "", "recipe.yaml", "`dataset_format`", dataset_format="other"),
    recipe("no samples", "", "recipe.yaml", "`max_train_samples`", max_train_samples=0),
    recipe("rank 0", "", "recipe.yaml", "`lora_r`", use_lora=True, lora_r=0),
    recipe("all of a dropout", "", "recipe.yaml", "`lora_dropout`", use_lora=True, lora_dropout=1.0),
    recipe("no model", "", "recipe.yaml", model_name_or_path=...),
    recipe("no such model", "", "/gone/model: no such folder", model_name_or_path="/gone/model"),
    recipe("no such teacher", "", "/gone/teacher: no such", teacher_model_name_or_path="/gone/teacher"),
    recipe("no such data", "", "/gone/rows.jsonl: no such", dataset_path="/gone/rows.jsonl"),
    Kind("no such split to train on", lambda p: of_world(p, train_split="other"), ("'other'",)),
    Kind("no such split to evaluate on", lambda p: of_world(p, eval_split="other"), ("'other'",)),
    recipe(
        "no such checkpoint to resume", "", "/gone/checkpoint-1: no such", resume_from_checkpoint="/gone/checkpoint-1"
    ),
    recipe("a reward that is not known", "", "other_reward", script="grpo", **GRPO, reward_functions=["other_reward"]),
    Kind("an output folder that holds a model", occupied, ("out: holds a model already",)),
    # What it starts from and works on
    model("a model cut short to train", shorter("model.safetensors"), "model.safetensors", "cut short"),
    model("a model cut short for GRPO", shorter("model.safetensors"), "model.safetensors", "cut short", script="grpo"),
    model("another tokenizer to train", changed("config.json", seg_token_id=3), "`seg_token_id`"),
    model("a tokenizer cut short to train", shorter("tokenizer.json"), "tokenizer.json", "not valid JSON"),
    rows("a row without an answer to learn", {"target": ...}, "row_1", "its target is missing"),
    rows("a row without a reference to train on", {"reference": " "}, "row_1", "the reference is empty"),
    rows("a frame that is gone to train on", {"frames": ["clip_1/7.jpg"] * 3}, "7.jpg: no such frame"),
    Kind("a frame that is found out in training", lambda p: damaged(p, 0), ("damaged.png", "can not be read")),
    Kind("a frame that is found out by a worker", lambda p: damaged(p, 1), ("damaged.png", "can not be read")),
    # A chain's YAML
    chain("a chain that is no YAML", "steps: [", "not valid YAML"),
    chain("a chain of bytes", b"\xff\xfe\x00\x00", "not text in UTF-8"),
    chain("a chain that is a list", "[1]", "a mapping"),
    chain("a chain without steps", {"output_dir": "x"}, "`steps`"),
    chain("a chain without a folder", {"steps": []}, "`output_dir`"),
    chain("a chain with another key", {"output_dir": "x", "steps": [], "stepz": 1}, "stepz"),
    chain("a chain of a seed that is a text", {"output_dir": "x", "steps": [], "seed": "one"}, "`seed`", "'one'"),
    chain("a chain of a negative seed", {"output_dir": "x", "steps": [], "seed": -1}, "`seed`"),
    chain("a step that is a text", {"output_dir": "x", "steps": ["data"]}, "'data'"),
    chain("a step without a name", {"name": ...}, "needs `name`"),
    chain("a step whose name is a path", {"name": "../data"}, "'../data'"),
    chain("a step with another key", {"ran": "x"}, "`ran`"),
    chain("a step that makes nothing", {"makes": ...}, "`makes`"),
    chain("a step that makes what is not its own", {"makes": "../other"}, "`makes`", "'../other'"),
    chain("a step that makes the folder itself", {"makes": "."}, "`makes`"),
    chain("a step that runs nothing", {"run": ...}, "`run`"),
    chain("a step that runs an empty line", {"run": " "}, "`run` is empty"),
    chain("a step with half a quote", {"run": 'aurora synth "x'}, "`run`", "quotation"),
    chain("a step with a place that is not known", {"run": "aurora synth {outputs}"}, "`run`", "outputs"),
    chain("a step that runs a list", {"run": ["aurora"]}, "`run`"),
    chain("a step that needs no step", {"needs": ["other"]}, "`other`"),
    chain("a step that needs a text", {"needs": "data"}, "`needs`"),
    chain("a step of many minutes", {"minutes": "many"}, "`minutes`", "'many'"),
    chain("a step whose YAML is gone", {"run": ..., "train": "recipes/sft.py", "config": "gone.yaml"}, "gone.yaml"),
    chain("a step with a flag that is wrong", {"run": "aurora synth x --clips none"}, "--clips", "'none'"),
    chain("two steps of one name", {"output_dir": "x", "steps": [STEP, STEP]}, "two steps"),
    chain("a step to run that is not there", {}, "`other`", flags=("--only", "other")),
    chain("a step to stop before that is not there", {}, "`other`", flags=("--before", "other")),
    Kind("no such chain", lambda p: ["run", f"{p.root}/gone.yaml"], ("gone.yaml: no such file",)),
    Kind("a record of a step cut short", recorded, ("data.json", "not valid JSON")),
]
