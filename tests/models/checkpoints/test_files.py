"""The files of our checkpoints: a name that leads nowhere, and what is known before a weight is read."""

import random
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open

from aurora_trl import AuroraModel, AuroraPipeline, AuroraProcessor
from aurora_trl.errors import DataError
from aurora_trl.models.checkpoints.adapters import describe_base
from aurora_trl.models.checkpoints.digest import checkpoint_digest
from aurora_trl.models.checkpoints.own_files import check_checkpoint
from aurora_trl.models.checkpoints.weight_files import find_checkpoint
from aurora_trl.tiny.qwen import create_tiny_qwen_checkpoint


def point_at(endpoint, monkeypatch):
    """As HF_ENDPOINT does, which the client reads when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that knows no repository, and writes down what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            if "sftt" in self.path:  # the client has questions of its own
                asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield asked
    server.shutdown()
    server.server_close()


LOADERS = [
    AuroraModel.from_pretrained,
    AuroraProcessor.from_pretrained,
    AuroraPipeline.from_pretrained,
    find_checkpoint,
]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__qualname__)
def test_a_mistyped_folder_asks_the_hub_once(load, hub, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "sft").symlink_to(checkpoint)
    with pytest.raises(DataError) as caught:
        load("outputs/sftt")
    assert "outputs/sftt: no such folder, and on the Hub the repository is unknown to it" in str(caught.value)
    assert str(caught.value).endswith("did you mean outputs/sft?")
    assert hub == ["/outputs/sftt/resolve/main/config.json"]
    for path in ("./outputs/sftt", "outputs/tiny/sft", "~/sft", str(tmp_path / "sft")):
        with pytest.raises(DataError, match="no such folder, and no name of a Hub repository"):
            load(path)
    assert len(hub) == 1


def test_a_hub_that_can_not_be_reached_is_asked_once(monkeypatch):
    point_at("http://127.0.0.1:9", monkeypatch)  # nobody listens
    with pytest.raises(DataError, match="none/such: no such folder, and the Hub can not be asked .*refused"):
        AuroraModel.from_pretrained("none/such")


def test_looking_at_a_checkpoint_draws_no_numbers(checkpoint):
    """A training that starts from it is the same to the bit."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check_checkpoint(AuroraModel, str(checkpoint))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_a_head_that_is_tied_is_not_missing(tmp_path):
    folder = create_tiny_qwen_checkpoint(tmp_path / "qwen", ["some words"], sound=False)
    config = AuroraModel.from_pretrained(folder).config
    config.policy_config.tie_word_embeddings = config.policy_config.text_config.tie_word_embeddings = True
    AuroraModel(config).save_pretrained(tmp_path / "tied")
    with safe_open(tmp_path / "tied" / "model.safetensors", "pt") as file:
        assert "policy.lm_head.weight" not in file.keys()  # noqa: SIM118  (no mapping)
    policy = AuroraModel.from_pretrained(tmp_path / "tied").policy
    assert policy.lm_head.weight is policy.get_input_embeddings().weight


def test_a_repository_is_told_by_its_commit(tmp_path, monkeypatch):
    """A run is not continued with what was pushed to the same name since."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    digests = [checkpoint_digest(name) for name in ("org/model", "no/repository/name")]
    assert digests == ["org/model", "no/repository/name"]
    for commit, file in (("1" * 40, "config.json"), ("2" * 40, "adapter_config.json")):
        repository = tmp_path / "models--org--model"
        for path, text in ((f"snapshots/{commit}/{file}", "{}"), ("refs/main", commit)):
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_text(text)
        assert checkpoint_digest("org/model") == f"org/model@{commit}"


def test_of_two_sets_of_weights_none_is_taken_in_silence(checkpoint, tmp_path):
    """What `save_pretrained` leaves of an earlier save: a single file beside new shards, or the index of old ones."""
    model = AuroraModel.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    AuroraModel.from_pretrained(tmp_path)  # the same weights twice
    model.seg_projector[0].bias.data.fill_(7.0)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    with pytest.raises(DataError, match="model.safetensors and the shards of .* are two models; take the older"):
        AuroraModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        "model.safetensors",
        "model.safetensors.index.json",
    ]
    assert float(AuroraModel.from_pretrained(tmp_path).seg_projector[0].bias.detach()[0]) == 7.0


def test_a_repository_is_another_where_its_commit_is(tmp_path, monkeypatch):
    """Its owner may push to it between two runs, of which the second would go on with the first one's answers."""
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs" / "main").write_text(commit)
        assert checkpoint_digest("org/name") == f"org/name@{commit}"
    assert checkpoint_digest("in/memory") == "in/memory"


@pytest.fixture
def two(checkpoint, tmp_path):
    """A checkpoint, and another one in a folder inside it."""
    outer = tmp_path / "outer"
    shutil.copytree(checkpoint, outer)
    shutil.copytree(checkpoint, outer / "sub")
    model = AuroraModel.from_pretrained(checkpoint)
    model.seg_projector[0].bias.data.fill_(7.0)
    model.save_pretrained(outer / "sub")
    AuroraProcessor.from_pretrained(checkpoint).with_num_frames(3).save_pretrained(outer / "sub")
    return outer


def test_what_a_subfolder_named_is_found_again(two):
    pipe = AuroraPipeline.from_pretrained(two, subfolder="sub")
    assert float(pipe.model.seg_projector[0].bias.detach()[0]) == 7.0
    assert pipe.processor.num_frames == 3  # and not that of the folder around it
    model = pipe.model
    assert model.name_or_path == model.config.name_or_path == str(two / "sub")
    assert describe_base(model.name_or_path) == describe_base(str(two / "sub")) != describe_base(str(two))
    assert AuroraModel.from_pretrained(two).name_or_path == str(two)


def test_what_a_revision_named_is_found_again(two, tmp_path, monkeypatch):
    """An adapter that is trained on it stands on these weights, and a reference model has them."""
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    for name, commit, folder in (("main", "a" * 40, two), ("v1", "b" * 40, two / "sub")):
        (repository / "refs" / name).write_text(commit)
        (repository / "snapshots" / commit).symlink_to(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert AuroraModel.from_pretrained("org/name").name_or_path == "org/name"
    model = AuroraModel.from_pretrained("org/name", revision="v1")
    assert float(model.seg_projector[0].bias.detach()[0]) == 7.0
    assert describe_base(model.name_or_path).base_weights == describe_base(str(two / "sub")).base_weights
