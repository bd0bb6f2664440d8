"""Evaluation and report on real answers."""

import json

import pytest
from sounds import tone, write_clip_with_sound
from videos import write_clip

from aurora_trl.cli import main
from aurora_trl.data import DataError, load_refavs
from aurora_trl.data.masks import encode_rle, load_masks
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.evaluation.metrics import SegmentationMetrics
from aurora_trl.evaluation.report import write_report
from aurora_trl.evaluation.scoring import describe_answer
from aurora_trl.generation.answer import Answer
from aurora_trl.generation.swaps import swap_modality


def test_metrics_and_answers(model, processor, world, rows, annotator, tmp_path):
    splits = {"train": rows.select([0, 6, 12]), "test_n": load_refavs(world, "test_n").select(range(3))}
    metrics = evaluate_model(
        model, processor, splits, tmp_path, swaps=["audio"] * 2, batch_size=2, max_new_tokens=6, kind_of=annotator.kind
    )
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["splits"]["train"]["rows"] == 3
    assert metrics["swaps"]["audio"]["split"] == "train"
    # A random model that never draws: nothing is found, and nothing is drawn where nothing is.
    assert metrics["splits"]["test_n"]["S"] < 0.01
    # Nor does it ever say that nothing fits, which is right on the three rows that match something alone.
    assert metrics["splits"]["test_n"]["null_accuracy"] == 0.0
    assert metrics["splits"]["train"]["null_accuracy"] == 1.0
    assert metrics["splits"]["train"]["reflective_share"] == 0.0
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["split"] for answer in answers] == ["train"] * 3 + ["test_n"] * 3 + ["train"] * 3
    assert [answer["swap"] for answer in answers] == [None] * 6 + ["audio"] * 3  # once, as often as it is named
    assert len(answers[0]["masks"]) == 10
    assert answers[0]["kind"] in ("sight", "hearing", "both")


def test_null_references_have_s_and_null_accuracy_side_by_side(checkpoint, world, tmp_path, capsys):
    arguments = ["--splits", "test_n", "--max-rows", "3", "--max-new-tokens", "3", "--output", str(tmp_path / "out")]
    assert main(["evaluate", str(checkpoint), "--data", str(world), *arguments]) == 0
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["splits"]["test_n"]
    s, null_accuracy = f"{scores['S']:.3f}", f"{scores['null_accuracy']:.3f}"
    name = checkpoint.name
    assert f"{name} test_n: S {s}, null_accuracy {null_accuracy} (protocol refavs)" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    header = "| phase | test_n S | test_n null_accuracy |\n| --- | ---: | ---: |\n"
    assert f"{header}| {name} | {s} | {null_accuracy} |" in report


def test_an_answer_that_takes_back_what_it_said_is_reflective(rows):
    said = ["The target is the drum.", "Hold on, I should verify this.", "The target is the bell. It is [SEG]."]
    for completion, reflective in ((" ".join(said), True), (said[-1], False), (f"Hold on. {said[-1]}", False)):
        answer = describe_answer(Answer(rows[0], completion, None, 9), num_frames=10)
        assert answer["reflective"] is reflective


def test_report_shows_answers(model, processor, world, rows, annotator, tmp_path):
    row = next(row for row in rows if not row["is_null"])
    evaluate_model(model, processor, {"train": [row]}, tmp_path / "eval", max_new_tokens=4, kind_of=annotator.kind)
    # A perfect answer in the file: the report draws what is there.
    answer = json.loads((tmp_path / "eval" / "answers.jsonl").read_text())
    answer.update(masks=[encode_rle(mask) for mask in load_masks(row)], j=1.0, completion="Of course. It is [SEG].")
    (tmp_path / "eval" / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    page = write_report(tmp_path, {"sft": tmp_path / "eval"}, {}, {row["id"]: row}, durations=[("sft", 90.0)])
    assert "Of course. It is [SEG]." in page.read_text()
    text = (tmp_path / "report.md").read_text()
    assert "| sft |" in text
    assert "Of course. It is [SEG]." in text
    assert "| all | 1.5 |" in text
    assert (tmp_path / "pictures" / "good_1.png").stat().st_size > 5000


def test_swaps(rows):
    rows = rows.to_list()
    swapped = swap_modality(rows, "audio")
    assert all(a["audio"] != b["audio"] and a["frames"] == b["frames"] for a, b in zip(rows, swapped, strict=True))
    swapped = swap_modality(rows, "video")
    assert all(a["frames"] != b["frames"] and a["audio"] == b["audio"] for a, b in zip(rows, swapped, strict=True))
    swapped = swap_modality(rows, "reference")
    assert all(a["reference"] != b["reference"] for a, b in zip(rows, swapped, strict=True))
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        swap_modality(rows, "smell")
    with pytest.raises(ValueError, match="all 1 rows show one clip"):
        swap_modality(rows[:1], "audio")


def test_the_sound_of_a_video_is_swapped_too(tmp_path):
    """A row whose sound is its video's own track gets another's, and keeps its own where the pictures are swapped."""
    for number in range(3):
        write_clip_with_sound(tmp_path / f"{number}.mp4", [(0.0, tone(0.5, 48000))], num_frames=5)
    write_clip(tmp_path / "silent.mp4", [9, 9, 9])
    names = ("0", "1", "2", "silent")
    rows = [{"id": name, "reference": name, "video": str(tmp_path / f"{name}.mp4"), "audio": None} for name in names]
    swapped = swap_modality(rows, "audio")
    assert [row["video"] for row in swapped] == [row["video"] for row in rows]
    heard = [row["audio"] for row in swapped]
    assert heard[3] is None
    assert all(
        sound in {row["video"] for row in rows[:3]} - {own["video"]}
        for sound, own in zip(heard[:3], rows[:3], strict=True)
    )
    swapped = swap_modality(rows[:3], "video")
    assert all(new["video"] != own["video"] for new, own in zip(swapped, rows[:3], strict=True))
    assert [row["audio"] for row in swapped] == [row["video"] for row in rows[:3]]
    with pytest.raises(ValueError, match="row 'silent' has no sound, and each other clip is a video with a sound"):
        swap_modality(rows, "video")
    with pytest.raises(ValueError, match="no clip but that of row '0' has sound"):
        swap_modality([rows[0], rows[3]], "audio")
    with pytest.raises(ValueError, match="none of the 2 rows has sound"):
        swap_modality([rows[3], {**rows[3], "frames": ["a.png"]}], "audio")


def test_a_swap_that_can_not_be_is_found_before_anything_is_answered(model, processor, rows, tmp_path):
    same = {"test": [{**row, "reference": "The sounding object"} for row in rows]}
    with pytest.raises(ValueError, match="reference can not be swapped: no row about another clip .* anything else"):
        evaluate_model(model, processor, same, tmp_path / "eval", swaps=["reference"], checkpoint="x")
    assert not list(tmp_path.iterdir())


def test_a_protocol_of_classes_refuses_other_rows_first(model, processor, rows, tmp_path):
    with pytest.raises(DataError, match="the protocol `avss` needs rows of AVSBench's `avss`"):
        evaluate_model(model, processor, {"test": rows}, tmp_path / "eval", protocol=["refavs", "avss"])


def test_perfect_masks_score_one(rows):
    from aurora_trl.data.masks import resize_masks_official

    metrics = SegmentationMetrics()
    for row in [row for row in rows if not row["is_null"]][:4]:
        target = resize_masks_official(load_masks(row))
        metrics.update(20.0 * (2 * target[None].float() - 1), target[None])
    scores = metrics.compute()
    assert scores["J"] == pytest.approx(1.0, abs=1e-5)
    assert scores["F"] == pytest.approx(1.0, abs=1e-5)
