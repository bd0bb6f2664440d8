"""The Hub: pushed by command and from training with the real client, loaded back to the same masks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from hub_server import TOKEN, HubServer

from aurora_trl.cli import main
from aurora_trl.data import DataError, save_json
from aurora_trl.models.checkpoints.hub import CARD_MARK, check_base_is_public, push, write_model_card

COMPARE = """
import sys, torch
from transformers import AutoModel, AutoProcessor
import aurora_trl
from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.data import load_json
from aurora_trl.generation.collators import ClipLoader, SFTCollator

def logits(model, processor):
    batch = SFTCollator(ClipLoader(processor))(load_json(sys.argv[1]).to_list()[:2])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "masks")}
    with torch.no_grad():
        return model.eval()(**inputs)["mask_logits"]

for repo, folder in zip(sys.argv[2::2], sys.argv[3::2]):
    local = logits(AuroraModel.from_pretrained(folder), AuroraProcessor.from_pretrained(folder))
    for model, processor in ((AuroraModel, AuroraProcessor), (AutoModel, AutoProcessor)):
        pushed, theirs = model.from_pretrained(repo), processor.from_pretrained(repo)
        assert type(pushed) is AuroraModel and type(theirs) is AuroraProcessor
        found = logits(pushed, theirs)
        assert torch.equal(found > 0, local > 0)
        torch.testing.assert_close(found, local, atol=1e-5, rtol=0)
    print("drawn share of", repo, round(float((found > 0).float().mean()), 4))
"""

SHARE = """
import sys, torch
from pathlib import Path
import datasets
from datasets import load_dataset
from huggingface_hub import HfApi, constants
from aurora_trl import AuroraProcessor
from aurora_trl.data import DataError, find_source, load_json
from aurora_trl.generation.collators import ClipLoader, SFTCollator

rows, folder, checkpoint = sys.argv[1:]
HfApi().create_repo("org/clips", repo_type="dataset")
HfApi().upload_folder(repo_id="org/clips", folder_path=folder, repo_type="dataset")

own = load_json(rows)
plain = load_dataset("org/clips")
assert plain["train"]["reference"] == own["reference"]
media = load_dataset("org/clips", "media", split="media")
assert set(plain["train"][0]["frames"]) <= set(media["path"])

source = find_source("org/clips", "parquet")
assert source.splits() == ["train"]
pushed = source.load("train")
files = [Path(name) for row in pushed for name in (*row["frames"], row["audio"], *(row["masks"] or ()))]
assert all(file.is_relative_to(datasets.config.HF_DATASETS_CACHE) and file.is_file() for file in files)
collator = SFTCollator(ClipLoader(AuroraProcessor.from_pretrained(checkpoint)))
batches = [collator(dataset.to_list()) for dataset in (own, pushed)]
assert batches[0].keys() == batches[1].keys() and "audio_values" in batches[0]
for name, value in batches[0].items():
    assert not isinstance(value, torch.Tensor) or torch.equal(value, batches[1][name]), name

for endpoint in (constants.ENDPOINT, "http://127.0.0.1:9"):  # the server, and where nobody listens
    constants.ENDPOINT = endpoint
    try:
        find_source("org/none", "parquet").splits()
    except DataError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """Run a Python command against the server, from an empty folder, with a cache of its own."""
    folder = tmp_path_factory.mktemp("work")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }

    def call(*arguments):
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    call.folder = folder
    return call


@pytest.mark.slow
def test_pushed_from_training_and_loaded_from_the_hub(run, hub, checkpoint, world, cot_rows):
    """A base by command; a LoRA phase on it from its YAML; both loaded back, and the card's own snippet run."""
    out = run("-m", "aurora_trl.cli", "push", checkpoint, "org/base")
    assert f"{hub.endpoint}/org/base/commit/" in out
    rows = save_json(cot_rows, run.folder / "rows.jsonl")
    recipe = {
        "model_name_or_path": "org/base",
        "dataset_path": str(rows),
        "output_dir": "lora",
        "use_lora": True,
        "push_to_hub": True,
        "hub_model_id": "org/lora",
        "hub_strategy": "checkpoint",
        "max_steps": 2,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    (run.folder / "sft.yaml").write_text(yaml.safe_dump(recipe))
    run(REPOSITORY / "recipes" / "sft.py", "--config", "sft.yaml", "--learning_rate", "1e-2")

    pushed = hub.repositories["org/lora"]
    assert pushed.commits[-1] == "End of training"
    for folder in ("", "last-checkpoint/"):  # the processor comes with every checkpoint
        for name in ("adapter_model.safetensors", "aurora_adapter.json", "aurora_processor.json", "tokenizer.json"):
            assert folder + name in pushed.files
    assert pushed.commits.count("Training in progress, step 1") == 1
    assert "adapter_model.safetensors" in pushed.lfs
    assert "model.safetensors" not in pushed.files
    assert not any(name.startswith("checkpoint-") for name in pushed.files)
    card = pushed.files["README.md"].decode()
    for text in ("base_model: org/base", "* From: `org/base`", "* Steps: 2", "learning_rate: 0.01", "AURORA-SFT"):
        assert text in card
    assert TOKEN not in card

    # The card's own snippet, on a clip that is there, runs in the same process.
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    row = cot_rows[0]
    snippet = snippet.replace('video="clip.mp4"', f"frames={row['frames']!r}, audio={row['audio']!r}")
    script = run.folder / "compare.py"
    script.write_text(COMPARE + snippet)
    out = run(script, rows, "org/base", checkpoint, "org/lora", "lora")
    shares = [line.split()[-1] for line in out.splitlines() if line.startswith("drawn share of")]
    assert len(shares) == 2
    assert shares[0] != shares[1]  # training changed the masks, so the comparison can fail

    assert "(10, 48, 48)" in out
    assert hub.unknown == []


@pytest.mark.slow
def test_a_dataset_is_shared_over_the_hub(run, hub, checkpoint, cot_rows):
    """Exported by command, pushed with the client, loaded by `datasets` and by us, trained on by its name."""
    rows = save_json(cot_rows.select(range(4)), run.folder / "few.jsonl")
    assert main(["export", str(rows), "--output", str(run.folder / "packed")]) == 0
    script = run.folder / "share.py"
    script.write_text(SHARE)
    errors = run(script, rows, "packed", checkpoint).splitlines()
    assert errors[0].startswith("org/none: no such folder, and no dataset of that name on the Hub")
    assert errors[1].startswith("org/none: no such folder, and the Hub can not be asked for it: ")
    assert sorted(hub.repositories["datasets/org/clips"].lfs) == ["media/00000.parquet", "rows/train.parquet"]
    recipe = {
        "model_name_or_path": str(checkpoint),
        "dataset_path": "org/clips",
        "dataset_format": "parquet",
        "output_dir": "from_hub",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    (run.folder / "hub.yaml").write_text(yaml.safe_dump(recipe))
    run(REPOSITORY / "recipes" / "sft.py", "--config", "hub.yaml")
    assert json.loads((run.folder / "from_hub" / "trainer_state.json").read_text())["global_step"] == 1
    assert hub.unknown == []


def recipe_folder(checkpoint, tmp_path, **recipe) -> Path:
    folder = tmp_path / "sft"
    shutil.copytree(checkpoint, folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 720, "epoch": 1.5}))
    return folder


def test_the_card_says_what_the_folder_holds(checkpoint, tmp_path):
    recipe = {"model_name_or_path": "some/base", "dataset_path": "data", "teacher_model_name_or_path": "some/teacher"}
    folder = recipe_folder(checkpoint, tmp_path, **recipe)
    scores = {"rows": 200, "J": 0.612, "F": 0.7, "J&F": 0.656, "S": 0.9, "class_accuracy": 0.5}
    (tmp_path / "eval" / "sft").mkdir(parents=True)
    metrics = {"protocol": "refavs", "splits": {"test_s": scores, "test_n": {**scores, "S": 0.125}}}
    (tmp_path / "eval" / "sft" / "metrics.json").write_text(json.dumps(metrics))
    card = write_model_card(folder, repo_id="org/name", method="AURORA-SFT").read_text()
    meta = yaml.safe_load(card.split("---")[1])
    assert meta["base_model"] == "some/base"
    assert meta["license"] == "apache-2.0"
    for text in (
        'AuroraPipeline.from_pretrained("org/name")',
        "* Teacher: `some/teacher`",
        "* On: `data`, split `train`",
        "* Steps: 720, 1.50 epochs",
        "Protocol `refavs`",
        "| test_s | 200 | 0.612 | 0.700 | 0.656 |  | 0.500 |",
        "| test_n | 200 |  |  |  | 0.125 |  |",
        "Segment Anything: Apache-2.0",
        "@article{luo2025aurora",
    ):
        assert text in card


def test_a_card_without_scores_says_so(checkpoint, tmp_path):
    card = write_model_card(recipe_folder(checkpoint, tmp_path)).read_text()
    assert "Not evaluated." in card
    with pytest.raises(DataError, match="metrics.json: no such file; `aurora evaluate` writes it"):
        write_model_card(tmp_path / "sft", evaluation=tmp_path)


def test_a_card_of_the_user_is_left_alone(checkpoint, tmp_path):
    """The push is refused before any request: there is no network here."""
    folder = recipe_folder(checkpoint, tmp_path)
    (folder / "README.md").write_text("mine")
    with pytest.raises(DataError, match="is left as it is; add the scores to it by hand"):
        push(folder, "org/name", evaluation=tmp_path)
    assert (folder / "README.md").read_text() == "mine"
    (folder / "README.md").write_text(f"{CARD_MARK}\nold")
    write_model_card(folder)
    assert "old" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("file", ["model.safetensors", "aurora_processor.json"])
def test_a_folder_that_is_not_whole_is_not_pushed(file, checkpoint, tmp_path, capsys):
    folder = recipe_folder(checkpoint, tmp_path)
    (folder / file).unlink()
    assert main(["push", str(folder), "org/name"]) == 1
    assert file in capsys.readouterr().err


def test_an_adapter_on_a_local_base_is_not_pushed(tmp_path):
    with pytest.raises(DataError, match="nobody else could load it; push the whole model that `aurora merge` writes"):
        check_base_is_public("sft", str(tmp_path))
    with pytest.raises(DataError, match="nobody else could load it"):
        check_base_is_public("sft", "outputs/tiny/gone")
    check_base_is_public("sft", "org/base")
