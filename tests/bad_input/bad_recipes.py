"""Recipes of a phase, and chains of phases."""

import json

from bad_checkpoints import changed, shorter
from conftest import REPOSITORY
from kinds import Kind, Place

from aurora_trl import locks

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


def file_as_output(place: Place) -> list[str]:
    place.write("out")
    return ["sft", "--config", str(place.recipe())]


def inside_a_file(place: Place) -> list[str]:
    return ["sft", "--config", str(place.recipe(output_dir=str(place.write("notes.txt") / "out")))]


def held(place: Place) -> list[str]:
    """An output folder that another process writes: here it is the machine's first."""
    out = place.root / "out"
    lock = locks.RunLock(out / locks.LOCK_FILE, out)
    lock.record |= {"process": 1, "start": locks._start_of(1)}
    place.write(f"out/{locks.LOCK_FILE}", json.dumps(lock.record))
    return ["sft", "--config", str(place.recipe())]


def half_a_checkpoint(place: Place) -> list[str]:
    """A checkpoint to resume from by name, whose weights are cut short."""
    place.write("out/checkpoint-1/trainer_state.json", json.dumps({"global_step": 1}))
    place.write("out/checkpoint-1/model.safetensors", "cut")
    return ["sft", "--config", str(place.recipe(resume_from_checkpoint=str(place.root / "out/checkpoint-1")))]


def rows(name: str, change: dict[str, object], *named: str) -> Kind:
    def command(place: Place) -> list[str]:
        place.rows({}, change)
        return ["sft", "--config", str(place.recipe())]

    return Kind(name, command, named)


def mixture(name: str, datasets: list[object], *named: str, whole: bool = False) -> Kind:
    """Several datasets in a recipe's YAML, of which one is wrong."""

    def command(place: Place) -> list[str]:
        return ["sft", "--config", str(place.recipe(dataset_path=..., datasets=datasets))]

    return Kind(name, command, named if whole else ("recipe.yaml", *named))


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


def phase(
    name: str, *named: str, text: str = "", launch: object = None, flags: tuple[str, ...] = (), **settings: object
) -> Kind:
    """A chain of one phase, whose YAML has other settings, or which starts by another accelerate config."""

    def command(place: Place) -> list[str]:
        chain_dir = place.root / "chain"
        recipe = place.recipe(text, **{"output_dir": str(chain_dir / "phase"), **settings})
        step = {"name": "phase", "train": str(REPOSITORY / "recipes/sft.py"), "config": recipe.name, "makes": "phase"}
        if launch is not None:
            content = launch if isinstance(launch, str) else json.dumps(launch)
            step["accelerate"] = str(place.write("launch.yaml", content))
        whole = {"output_dir": str(chain_dir), "steps": [step]}
        return ["run", str(place.write("chain.yaml", json.dumps(whole))), "--dry-run", *flags]

    return Kind(name, command, named)


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
    recipe("a key that stands twice", "max_steps: 2", "recipe.yaml", "`max_steps` stands twice"),
    recipe("no name of a model", "", "recipe.yaml", "`model_name_or_path` is empty", model_name_or_path=None),
    recipe("no samples at a time", "", "recipe.yaml", "batch_size", per_device_train_batch_size=0),
    recipe("fewer than no steps", "", "recipe.yaml", "`max_steps`", "-5", max_steps=-5),
    recipe("a learning rate of no number", "learning_rate: .nan", "recipe.yaml", "`learning_rate`", "nan"),
    recipe("a learning rate that is a text", "", "recipe.yaml", "learning_rate", "fast", learning_rate="fast"),
    recipe("half of a step", "", "recipe.yaml", "`max_steps`", "whole number", "1.5", max_steps=1.5),
    recipe("no epochs", "", "recipe.yaml", "`num_train_epochs: 0`", num_train_epochs=0, max_steps=-1),
    recipe("no generations", "", "`num_generations`", "0", script="grpo", **{**GRPO, "num_generations": 0}),
    recipe("a flag that is a number", "", "recipe.yaml", "`bf16`", "true or false", bf16=7),
    recipe("a seed that is a list", "", "recipe.yaml", "`seed`", "whole number", "[1]", seed=[1]),
    recipe(
        "a strategy that YAML reads as false", "eval_strategy: no", "recipe.yaml", "`eval_strategy`", "quotes", "false"
    ),
    recipe("a learning rate of nothing", "learning_rate:", "recipe.yaml", "`learning_rate` is empty"),
    recipe("a reward by number", "reward_functions: [7]", "`reward_functions`", "a list", script="grpo", **GRPO),
    recipe("an option of a package that is not here", "", "swanlab", report_to="swanlab"),
    recipe(
        "an attention that is not here", "", "flash", model_init_kwargs={"attn_implementation": "flash_attention_2"}
    ),
    recipe("an option that is refused", "", "`torch_compile: true`", "refused", torch_compile=True),
    recipe(
        "fewer questions than a rollout takes",
        "",
        "takes 4 questions",
        "has 2",
        script="grpo",
        **{**GRPO, "gradient_accumulation_steps": 4},
    ),
    recipe(
        "a reference to move that an adapter has not",
        "",
        "`sync_ref_model: true`",
        "LoRA",
        script="grpo",
        **GRPO,
        use_lora=True,
        beta=0.1,
        sync_ref_model=True,
    ),
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
    recipe("no data at all", "", "recipe.yaml", "`dataset_path` is missing", dataset_path=...),
    recipe("data twice", "", "recipe.yaml", "`dataset_path` and `datasets`", datasets=[{"path": "a"}]),
    mixture("no datasets", [], "`datasets` is empty"),
    mixture("a dataset without a path", [{"weight": 1}], "entry 1", "`path` is missing"),
    mixture("a dataset that is a text", ["rows.jsonl"], "entry 1", "mapping"),
    mixture("a key of a dataset that is mistyped", [{"path": "a", "wieght": 1}], "`wieght`", "`weight`"),
    mixture("a weight below nothing", [{"path": "a"}, {"path": "b", "weight": -1}], "entry 2", "`weight`", "-1"),
    mixture("a weight that is a text", [{"path": "a", "weight": "much"}], "`weight` must be a number", "'much'"),
    mixture("a weight that is a yes", [{"path": "a", "weight": True}], "`weight` must be a number"),
    mixture("two datasets of one name", [{"path": "x/a"}, {"path": "y/a"}], "'a'", "`name`"),
    mixture("a dataset of no format", [{"path": "a", "format": "csv"}], "`format` must be one of", "'csv'"),
    mixture("a dataset of no samples", [{"path": "a", "max_train_samples": 0}], "`max_train_samples`", "0"),
    mixture("a dataset that is gone", [{"path": "/gone/rows.jsonl"}], "/gone/rows.jsonl: no such", whole=True),
    Kind("no such split to train on", lambda p: of_world(p, train_split="other"), ("'other'",)),
    Kind("no such split to evaluate on", lambda p: of_world(p, eval_split="other"), ("'other'",)),
    recipe(
        "no such checkpoint to resume", "", "/gone/checkpoint-1: no such", resume_from_checkpoint="/gone/checkpoint-1"
    ),
    recipe("a reward that is not known", "", "other_reward", script="grpo", **GRPO, reward_functions=["other_reward"]),
    Kind("an output folder that holds a model", occupied, ("out: holds a model already",)),
    Kind("an output folder that is a file", file_as_output, ("out: ", "file")),
    Kind("an output folder inside a file", inside_a_file, ("notes.txt: is a file",)),
    Kind("an output folder that another run holds", held, ("out", "process 1")),
    Kind("an output folder with half a checkpoint", half_a_checkpoint, ("checkpoint-1", "header too small")),
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
    # A phase of a chain, and how it starts
    phase("a phase whose key stands twice", "recipe.yaml", "`max_steps` stands twice", text="max_steps: 2"),
    phase("a phase that is no YAML", "recipe.yaml", "not valid YAML", text="[1"),
    phase("a phase with a key that is mistyped", "recipe.yaml", "`learning_rat`", text="learning_rat: 1"),
    phase("a phase without the name of a model", "recipe.yaml", "`model_name_or_path`", model_name_or_path=None),
    phase("a phase of no samples at a time", "recipe.yaml", "batch_size", per_device_train_batch_size=0),
    phase("a phase of fewer than no steps", "recipe.yaml", "`max_steps`", "-5", max_steps=-5),
    phase("a phase whose learning rate is no number", "recipe.yaml", "`learning_rate`", text="learning_rate: .nan"),
    phase("a phase of a choice that is none", "recipe.yaml", "`log_level`", "'loud'", log_level="loud"),
    phase("a phase whose schedule lacks a number", "recipe.yaml", "min_lr", lr_scheduler_type="cosine_with_min_lr"),
    phase("a phase without its model", "/gone/model", model_name_or_path="/gone/model"),
    phase("a phase without its data", "/gone/rows.jsonl", dataset_path="/gone/rows.jsonl"),
    phase("a phase that writes elsewhere", "`output_dir`", "`makes`", output_dir="elsewhere"),
    phase("a launch whose key stands twice", "launch.yaml", "`a` stands twice", launch="a: 1\na: 2"),
    phase("a launch that is no YAML", "launch.yaml", "not valid YAML", launch="a: ["),
    phase("a launch that is a list", "launch.yaml", "a mapping", launch=[1]),
    phase("a launch of many processes", "launch.yaml", "`num_processes`", "'many'", launch={"num_processes": "many"}),
    phase("a launch of no process", "launch.yaml", "`num_processes`", launch={"num_processes": 0}),
    phase(
        "a launch of a stage that is none",
        "launch.yaml",
        "`zero_stage`",
        launch={"deepspeed_config": {"zero_stage": "x"}},
    ),
    phase(
        "a launch of DeepSpeed by name", "launch.yaml", "`deepspeed_config`", launch={"deepspeed_config": "ds.json"}
    ),
    phase("processes without a launch", "chain.yaml", "`accelerate`", flags=("--num-processes", "2")),
    phase(
        "steps that can not be shared",
        "chain.yaml",
        "can not share evenly",
        launch={"num_processes": 2},
        flags=("--num-processes", "7"),
    ),
    phase(
        "a number of micro-steps that is a text",
        "chain.yaml",
        "`gradient_accumulation_steps`",
        launch={"num_processes": 2},
        flags=("--num-processes", "2"),
        gradient_accumulation_steps="few",
    ),
    Kind("no such chain", lambda p: ["run", f"{p.root}/gone.yaml"], ("gone.yaml: no such file",)),
    Kind("a record of a step cut short", recorded, ("data.json", "not valid JSON")),
]
