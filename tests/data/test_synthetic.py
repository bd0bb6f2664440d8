"""The synthetic world: deterministic files, true references, true reasoning."""

import filecmp
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from PIL import Image

from aurora_trl.data import DataError, load_refavs
from aurora_trl.data.synthetic import SyntheticAnnotator, read_world, world_corpus, write_world
from aurora_trl.data.synthetic.annotator import Judgement
from aurora_trl.data.synthetic.reasoning import Facts
from aurora_trl.data.synthetic.references import RULES, Reference
from aurora_trl.data.synthetic.scene import SEEN_CLASSES, UNSEEN_CLASSES, SceneObject, Sound
from aurora_trl.data.validation import check_dataset
from aurora_trl.prompts import REFLECTION_TRIGGERS, ends_with_answer, extract_class, normalize_class
from aurora_trl.tiny.videollama2 import tiny_tokenizer

SPLITS = ("train", "val", "test_s", "test_u", "test_n")


@pytest.fixture(scope="module")
def big_world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "w", clips=60, seed=9, image_size=48)


def test_same_seed_same_bytes(world, tmp_path):
    other = write_world(tmp_path / "again", clips=16, seed=3, image_size=48, workers=1)
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert len(files) > 16 * 11
    _, different, errors = filecmp.cmpfiles(world, other, files, shallow=False)
    assert not different
    assert not errors
    third = write_world(tmp_path / "other", clips=16, seed=4, image_size=48)
    assert not filecmp.cmp(world / "metadata.csv", third / "metadata.csv", shallow=False)


def test_written_again_it_stays(world, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    write_world(world, clips=16, seed=3, image_size=48)
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    with pytest.raises(DataError, match="another synthetic world"):
        write_world(world, clips=17, seed=3, image_size=48)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="not empty"):
        write_world(tmp_path / "full", clips=16)
    with pytest.raises(DataError, match="clips is 2; give at least 5"):
        write_world(tmp_path / "few", clips=2)
    assert not (tmp_path / "few").exists()


def test_layout(big_world):
    for split in SPLITS:
        assert check_dataset(load_refavs(big_world, split)) == []
    wave, rate = soundfile.read(big_world / "media" / "synth_00000" / "audio.wav")
    assert len(wave) == 10 * rate
    mask = np.asarray(Image.open(next((big_world / "gt_mask").rglob("*.png"))))
    assert set(np.unique(mask)) <= {0, 255}


def test_splits(big_world):
    classes = {split: set(load_refavs(big_world, split)["class_name"]) for split in SPLITS}
    assert classes["train"] - {"null"} == set(SEEN_CLASSES)
    assert classes["test_s"] <= set(SEEN_CLASSES)
    assert classes["test_u"] <= set(UNSEEN_CLASSES)
    assert classes["test_n"] == {"null"}
    assert any("-" in name for name in SEEN_CLASSES)
    videos = {split: {row["id"].rsplit("_", 2)[0] for row in load_refavs(big_world, split)} for split in SPLITS}
    names = [name.removeprefix("null_c-") for split in SPLITS for name in videos[split]]
    assert max(Counter(names).values()) <= 2  # a training clip and its null twin; no clip in two splits
    assert not videos["train"] & videos["test_s"]


def test_references_need_sight_hearing_and_both(big_world):
    annotator = SyntheticAnnotator(big_world)
    kinds = Counter(annotator.kind(row) for row in load_refavs(big_world, "train"))
    assert set(kinds) == {"sight", "hearing", "both"}
    assert kinds["hearing"] / kinds.total() > 0.3
    rules = {annotator.facts(row).reference.rule for split in SPLITS for row in load_refavs(big_world, split)}
    assert len(rules) >= len(RULES) - 3


def test_truth_is_consistent(big_world):
    """Each reference picks its target by its own rule, and a null one picks none."""
    for clip in read_world(big_world)["clips"].values():
        for reference in clip["references"]:
            assert (reference["target"] == 0) == reference["uid"].startswith("null_")
    annotator = SyntheticAnnotator(big_world)
    for split in SPLITS:
        for row in load_refavs(big_world, split):
            facts = annotator.facts(row)
            reference = facts.reference
            picked = RULES[reference.rule].pick(facts.objects, reference.value)
            if row["is_null"]:
                assert picked is None
                assert facts.target is None
            else:
                assert picked is not None
                assert picked.number == reference.target
                assert picked.class_name == row["class_name"]


def test_sound_starts_and_ends_where_the_truth_says(big_world):
    clips = read_world(big_world)["clips"]
    name, clip = next((n, c) for n, c in clips.items() if sum(o["sound"] is not None for o in c["objects"]) == 1)
    sound = next(o["sound"] for o in clip["objects"] if o["sound"])
    wave, rate = soundfile.read(big_world / "media" / name / "audio.wav")
    loud = np.flatnonzero(np.abs(wave) > 0.3 * np.abs(wave).max()) / rate
    assert loud[0] == pytest.approx(sound["onset_seconds"], abs=0.15)
    end = sound["onset_seconds"] + sound["duration_seconds"]
    assert end - 1.1 / sound["pulses_per_second"] < loud[-1] <= end
    silent = next(n for n, c in clips.items() if not any(o["sound"] for o in c["objects"]))
    wave, _ = soundfile.read(big_world / "media" / silent / "audio.wav")
    assert np.abs(wave).max() < 0.01


def test_mask_is_where_the_object_is_drawn(big_world):
    clips = read_world(big_world)["clips"]
    name, clip = next((n, c) for n, c in clips.items() if c["references"][0]["target"])
    number = clip["references"][0]["target"]
    target = next(o for o in clip["objects"] if o["number"] == number)
    for i in (0, 9):
        mask = np.asarray(Image.open(big_world / "gt_mask" / name / f"fid_{number}" / f"{i:05d}.png")) > 0
        ys, xs = np.nonzero(mask)
        assert (xs.min() + xs.max() + 1) / 2 / 48 == pytest.approx(target["path"][i][0], abs=0.04)
        assert (ys.min() + ys.max() + 1) / 2 / 48 == pytest.approx(target["path"][i][1], abs=0.04)


@pytest.mark.parametrize("style", ["flexible", "fixed"])
def test_reasoning_is_true(style, big_world):
    annotator = SyntheticAnnotator(big_world)
    wordings = set()
    for split in SPLITS:
        for row in load_refavs(big_world, split):
            text = annotator.reasoning(row, style=style)
            assert extract_class(text) == normalize_class(row["class_name"])
            assert annotator.judge(row, text).class_correct
            assert annotator.judge(row, text).wrong_sentences == ()
            assert annotator.correct(row, text) == text
            assert 10 <= len(text.split()) <= 75
            wordings.add(text.split()[0])
    assert len(wordings) > 2 if style == "flexible" else wordings == {"Seen:"}


def test_the_fixed_format_lists_everything():
    loud = Sound("loud", "midway", "fast", "short", 0.15, 3.1, 1.6, 4.0)
    soft = Sound("soft", "early", "slow", "long", 0.013, 0.1, 5.5, 1.0)
    objects = tuple(
        SceneObject(i, name, colour, size, 0.1, x, y, ((x, y),) * 10, sound)
        for i, (name, colour, size, x, y, sound) in enumerate(
            [("hand-bell", "red", "small", 0.8, 0.2, loud), ("drum", "blue", "large", 0.1, 0.5, soft)], start=1
        )
    )
    facts = Facts(objects, Reference("sight", "class", "drum", 2, "The drum"))
    assert facts.sentences("seen", "fixed") == ["Seen: left middle large blue drum, right top small red hand bell."]
    assert facts.sentences("heard", "fixed") == ["Heard: early soft slow long drum, midway loud fast short hand bell."]
    silent = Facts((replace(objects[0], sound=None),), facts.reference)
    assert silent.sentences("heard", "fixed") == ["Heard: nothing."]


def test_corrections_are_minimal(big_world):
    """The reasoning of another row: what is true of this one stays, the rest is mended."""
    annotator = SyntheticAnnotator(big_world)
    rows = load_refavs(big_world, "train").to_list()
    for row, other in zip(rows[:60], rows[1:61], strict=True):
        wrong = annotator.reasoning(other)
        corrected = annotator.correct(row, wrong)
        judgement = annotator.judge(row, corrected)
        assert judgement.class_correct
        assert judgement.wrong_sentences == ()
        bad = annotator.judge(row, wrong).wrong_sentences
        kept = [s.strip() + "." for s in wrong.split(".") if s.strip() and s.strip() + "." not in bad]
        assert all(sentence in corrected for sentence in kept)


@pytest.mark.parametrize("text", ["", "[SEG]", "blah blah", "It is [SEG]. It is [SEG].", "the target is " * 30])
def test_any_text_can_be_judged_and_corrected(text, big_world):
    annotator = SyntheticAnnotator(big_world)
    row = load_refavs(big_world, "train")[0]
    assert not annotator.judge(row, text).class_correct
    assert annotator.judge(row, annotator.correct(row, text)).class_correct


def test_unknown_rows_and_folders(big_world, tmp_path):
    with pytest.raises(DataError, match="not a reference of the synthetic world"):
        SyntheticAnnotator(big_world).kind({"id": "x_drum_1"})
    with pytest.raises(DataError, match=r"world.json"):
        SyntheticAnnotator(tmp_path)


def test_words_are_tokens(big_world):
    """The tiny tokenizer knows the world's words, those of the unseen classes too, and keeps any text."""
    tokenizer = tiny_tokenizer(world_corpus())
    annotator = SyntheticAnnotator(big_world)
    for split in SPLITS:
        for row in load_refavs(big_world, split).select(range(3)):
            text = f"{annotator.reasoning(row)} It is [SEG]."
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            marks = text.count(".") + text.count(",")
            # `[SEG]` and the space before it; a word that seldom starts a text may take two there.
            assert len(ids) <= len(text.split()) + marks + 4
            assert ends_with_answer(tokenizer.decode(ids, skip_special_tokens=True))
    for trigger in REFLECTION_TRIGGERS:  # behind a sentence, as reflective answers have it
        words = re.findall(r"\w+|[^\w\s]", trigger)
        behind = len(tokenizer(f"the drum. {trigger}")["input_ids"]) - len(tokenizer("the drum.")["input_ids"])
        assert behind == len(words)
    odd = "Ünïcödé 文字 \n\t tokens!"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd
    assert json.loads(json.dumps(tokenizer.convert_tokens_to_ids("[SEG]"))) == len(tokenizer) - 1


def test_null_reasons_are_true_and_asked_for(big_world):
    """They say what is missing, by the rule of the reference; the plain texts stay as they are."""
    annotator = SyntheticAnnotator(big_world)
    said = set()
    for row in load_refavs(big_world, "test_n"):
        facts = annotator.facts(row)
        for style in ("flexible", "fixed"):
            text = annotator.reasoning(row, style=style, null_reasons=True)
            assert annotator.judge(row, text) == Judgement(True, ())
            assert facts.null_reason().removeprefix("No").removesuffix(".") in text
            assert facts.null_reason().removeprefix("No") not in annotator.reasoning(row, style=style)
        said.add(facts.reference.rule)
        if facts.reference.rule == "colour":
            assert facts.reference.value not in {o.colour for o in facts.objects}
    assert {"class", "colour"} <= said
    row = next(row for row in load_refavs(big_world, "train") if not row["is_null"])
    assert annotator.reasoning(row, null_reasons=True) == annotator.reasoning(row)
