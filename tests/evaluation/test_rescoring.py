"""Several protocols from one generation: asked for at once or afterwards, the same bits."""

import json

import pytest
import torch
from layouts import write_avss

from aurora_trl import AuroraModel, AuroraProcessor
from aurora_trl.cli import main
from aurora_trl.data import DataError, load_avsbench, load_refavs
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.evaluation.kept_logits import KeptLogits
from aurora_trl.evaluation.metrics import PROTOCOLS
from aurora_trl.evaluation.rescoring import score_again
from aurora_trl.generation.answer import Answer

BY_MASK = [name for name, rules in PROTOCOLS.items() if not rules.by_class]


def contents(folder, name, protocol):
    """The scores by a protocol, and what each answer scores."""
    lines = (folder / f"scores.{protocol}.jsonl").read_text()
    return json.loads((folder / name).read_text()), lines


@pytest.fixture(scope="module")
def evaluated(drawing_checkpoint, world, tmp_path_factory):
    """Answers that were scored by all protocols of masks at once, with a swap of the video, whose frames differ."""
    model = AuroraModel.from_pretrained(drawing_checkpoint).eval()
    processor = AuroraProcessor.from_pretrained(drawing_checkpoint)
    rows = load_refavs(world, "train").select(range(0, 12, 2)).to_list()
    splits = {"train": rows, "test_n": load_refavs(world, "test_n").select(range(3)).to_list()}
    # What two protocols ask of rows besides masks.
    kinds = [PROTOCOLS[name].kinds[0] for name in ("revos", "omniavs")]
    for split in splits.values():
        for number, row in enumerate(split):
            row.update(reference_kind=kinds[number % 2], foreground_masks=row["masks"] or rows[0]["masks"])
    settings = {"swaps": ["video"], "batch_size": 4, "max_new_tokens": 8}
    folder = tmp_path_factory.mktemp("rescoring")
    evaluate_model(model, processor, splits, folder / "all", protocol=BY_MASK, **settings)
    evaluate_model(model, processor, splits, folder / "one", **settings)
    evaluate_model(model, processor, splits, folder / "bare", keep_logits=False, **settings)
    return folder, splits


def test_scored_again_is_scored_then_to_the_bit_for_every_protocol(evaluated):
    folder, splits = evaluated
    answers = [json.loads(line) for line in (folder / "all" / "answers.jsonl").read_text().splitlines()]
    assert any(answer["has_seg"] for answer in answers)
    score_again(folder / "one", splits, [name for name in BY_MASK if name != "refavs"])
    for name in BY_MASK:
        file = "metrics.json" if name == "refavs" else f"metrics.{name}.json"
        assert contents(folder / "one", file, name) == contents(folder / "all", file, name), name
    assert (folder / "one" / "answers.jsonl").read_text() == (folder / "all" / "answers.jsonl").read_text()


def test_classes_are_scored_again_too(drawing_checkpoint, tmp_path):
    model = AuroraModel.from_pretrained(drawing_checkpoint).eval()
    processor = AuroraProcessor.from_pretrained(drawing_checkpoint)
    rows = load_avsbench(write_avss(tmp_path / "data"), "avss", "test").to_list()
    for name, protocols in (("one", ["avsbench"]), ("all", ["avsbench", "avss"])):
        evaluate_model(model, processor, {"test": rows}, tmp_path / name, protocol=protocols, max_new_tokens=6)
    score_again(tmp_path / "one", {"test": rows}, ["avss"])
    assert contents(tmp_path / "one", "metrics.avss.json", "avss") == contents(
        tmp_path / "all", "metrics.avss.json", "avss"
    )


def test_what_each_answer_scores_has_its_line(evaluated):
    """The mean of J over answers is J where the protocol takes clips one by one."""
    folder, _ = evaluated
    lines = [json.loads(line) for line in (folder / "all" / "scores.aurora.jsonl").read_text().splitlines()]
    assert [(line["split"], line["swap"]) for line in lines[:7:6]] == [("train", None), ("test_n", None)]
    own = [line for line in lines if line["split"] == "train" and line["swap"] is None]
    scores = json.loads((folder / "all" / "metrics.aurora.json").read_text())["splits"]["train"]
    for name in ("J", "F", "S"):
        assert sum(line[name] for line in own) / len(own) == pytest.approx(scores[name], abs=1e-6)


def test_logits_are_kept_as_they_were(tmp_path):
    """Of either type, and none where the answer has no mask."""
    kept = KeptLogits(tmp_path / "logits")
    for number, dtype in enumerate((torch.float32, torch.bfloat16)):
        logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(number)).to(dtype)
        kept.save("test", "audio", number, Answer({}, "", logits.float(), 4, decoded_logits=logits))
        found, size = kept.load("test", "audio", number)
        assert found.dtype == dtype
        assert torch.equal(found, logits)
        assert size == (8, 8)
    kept.save("test", "audio", 0, Answer({}, "", None, 4))
    with pytest.raises(DataError, match="no such file; evaluate that checkpoint again"):
        kept.load("test", "audio", 0)
    path = tmp_path / "logits" / "test+audio" / "000001.z"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"000001\.z: damaged"):
        kept.load("test", "audio", 1)


def test_what_belongs_to_no_answer_is_not_kept(tmp_path):
    """Of a run that was cut and had more rows."""
    kept, logits = KeptLogits(tmp_path / "eval.logits"), torch.zeros(1, 4, 4)
    for number in range(3):
        kept.save("test", None, number, Answer({}, "", logits, 4, decoded_logits=logits))
    records = [{"split": "test", "swap": None, "row": number} for number in (0, 2)]
    (tmp_path / "eval").mkdir()
    kept.finish(tmp_path / "eval", records, image_size=16, num_frames=1, keep_aspect_ratio=True)
    found = sorted(path.name for path in (tmp_path / "eval" / "logits").rglob("*") if path.is_file())
    assert found == ["000000.z", "000002.z", "geometry.json"]
    assert not (tmp_path / "eval.logits").exists()


def test_what_can_not_be_scored_again_is_named(evaluated):
    folder, splits = evaluated
    with pytest.raises(DataError, match="keeps no logits"):
        score_again(folder / "bare", splits, ["aurora"])
    with pytest.raises(DataError, match="scored by `refavs` already"):
        score_again(folder / "one", splits, ["refavs"])
    fewer = {"train": splits["train"]}
    with pytest.raises(DataError, match="about the split test_n, which the dataset does not have"):
        score_again(folder / "one", fewer, ["avss"])
    first, *rest = splits["train"]
    for other in (rest, [{**first, "reference": "The other one"}, *rest], [{**first, "class_name": "x"}, *rest]):
        with pytest.raises(DataError, match="is about another row than the dataset's"):
            score_again(folder / "one", {**splits, "train": other}, ["avss"])


def test_by_the_command(checkpoint, world, tmp_path, capsys):
    arguments = ["--splits", "test_n", "--max-rows", "2", "--max-new-tokens", "3", "--output", str(tmp_path / "out")]
    command = ["evaluate", str(checkpoint), "--data", str(world), "--protocol", "refavs", "davis", *arguments]
    assert main(command) == 0
    assert "(protocol davis)" in capsys.readouterr().out
    assert main(["score", str(tmp_path / "out"), "--protocol", "aurora", "simtoken"]) == 0
    printed = capsys.readouterr().out
    assert "out test_n: S" in printed
    assert "(protocol simtoken)" in printed
    assert main(["score", str(tmp_path / "out"), "--protocol", "aurora"]) == 1
    assert "scored by `aurora` already" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "out"), "--protocol", "nonsense"]) == 1
    assert "unknown protocol 'nonsense'" in capsys.readouterr().err
