"""Corrections through a chat annotator and through the world's truth, and what is reported of them."""

import json

import pytest
from annotation_servers import Action, serve

from aurora_trl.annotation import RunLimits, WorldAnnotator, correct_file, get_annotator
from aurora_trl.annotation.failures import world_failure_kind
from aurora_trl.annotation.instructions import FAILURE_KINDS
from aurora_trl.cli import main
from aurora_trl.data import load_json, load_refavs, save_json
from aurora_trl.data.formats.refavs import SPLITS
from aurora_trl.data.synthetic.annotator import Judgement
from aurora_trl.prompts import (
    NULL_ANSWER,
    REFLECTION_TRIGGERS,
    cot_target,
    display_class,
    extract_class,
    normalize_class,
    strip_answer,
)


@pytest.fixture
def hard_rows(rows):
    """Five rows with references of their own, whose text names a thing that is nowhere."""
    chosen = {}
    for row in rows:
        if not row["is_null"]:
            chosen.setdefault(row["reference"], row)
    text = "I see a boat beside a tree and I hear it. So the target is the boat. It is [SEG]."
    return [{**row, "target": text} for row in list(chosen.values())[:5]]


def test_a_chat_annotator_corrects(hard_rows, tmp_path):
    """One is right, one has no kind at first, one is left as it was until attempts run out."""
    right, no_kind, stubborn = (row["reference"] for row in hard_rows[:3])

    def behave(request, number):
        ending = request.good_answer.split(". ")[-1]
        text = f"I see a boat beside a tree and I hear it. {ending}"
        kind = "unclear" if request.reference == no_kind and "could not be used" not in request.prompt else "temporal"
        if request.reference == right:
            return Action("VERDICT: right")
        if request.reference == stubborn:
            text = "I see a boat beside a tree and I hear it. So the target is the [[boat]]."
        return Action(f"VERDICT: wrong\nKIND: {kind}\nMARKED: I see [[a boat]].\nCORRECTED: {text}")

    output = tmp_path / "reflective.jsonl"
    with serve(behave) as server:
        annotator = get_annotator("openai:m", base_url=f"{server.url}/v1")
        result = correct_file(hard_rows, annotator, output, limits=RunLimits(max_attempts=2))
        assert len(server.requests) == 7
        assert {len(request.pictures) for request in server.requests} == {10}
        assert {len(request.sounds) for request in server.requests} == {1}
        assert "Student: I see a boat beside a tree and I hear it. So the target is the boat.\n" in (
            server.requests[0].prompt
        )
        again = correct_file(hard_rows, annotator, output, limits=RunLimits(max_attempts=2))
        assert len(server.requests) == 7
    assert again == result
    assert [wrong["id"] for wrong, _ in result.pairs] == [hard_rows[i]["id"] for i in (1, 3, 4)]
    for wrong, corrected in result.pairs:
        assert wrong["target"] == hard_rows[0]["target"]
        assert extract_class(corrected["target"]) == normalize_class(wrong["class_name"])
    assert (result.right, result.failed) == (1, 1)
    failed = json.loads(result.failed_path.read_text())
    assert failed["id"] == hard_rows[2]["id"]
    assert failed["attempts"][0]["problem"] == "it calls the text wrong and changes nothing"
    report = json.loads(result.report_path.read_text())
    assert report["kinds"]["temporal"] == {"count": 3, "share": 1.0}
    assert set(report["kinds"]) == set(FAILURE_KINDS)
    words = [len(display_class(hard_rows[i]["class_name"]).split()) for i in (1, 3, 4)]
    assert [row["edited_words"] for row in report["rows"]] == words  # the class alone was replaced


def test_the_command_mixes_and_reports(hard_rows, cot_rows, world, tmp_path, capsys):
    hard, plain = save_json(hard_rows, tmp_path / "hard.jsonl"), save_json(cot_rows, tmp_path / "cot.jsonl")
    output, corrected = tmp_path / "reflective.jsonl", tmp_path / "corrected.jsonl"
    command = ["correct", str(hard), "--annotator", f"synthetic:{world}", "--plain", str(plain), "--seed", "3"]
    command += ["--corrected", str(corrected), "--output", str(output)]
    assert main(command) == 0
    rows = load_json(output)
    reflective = [row for row in rows if row["id"].endswith("#reflective")]
    assert (len(reflective), len(rows)) == (5, 5 + round(5 * 3500 / 1505))
    assert load_json(corrected)["id"] == [row["id"] for row in hard_rows]
    for row in reflective:
        assert sum(trigger in row["target"] for trigger in REFLECTION_TRIGGERS) == 1
    out = capsys.readouterr().out
    assert "0 were right after all; failures by kind: " in out
    before = output.read_bytes()
    assert main([*command, "--plain-per-reflective", "1"]) == 0  # nothing is asked; the mix is another
    assert len(load_json(output)) == 10
    assert (tmp_path / "reflective.jsonl.previous").read_bytes() == before
    assert main([*command, "--read-mistakes"]) == 0
    prefilled = [row for row in load_json(output) if row["prefill"]]
    assert {row["id"] for row in prefilled} == {row["id"] for row in reflective}
    assert all(row["target"].startswith(REFLECTION_TRIGGERS) for row in prefilled)
    few = [*command[:-1], str(tmp_path / "few.jsonl"), "--max-rows", "2", "--plain-per-reflective", "0"]
    assert main(few) == 1  # the corrected paths of another run stand there
    assert "corrected.jsonl: exists already" in capsys.readouterr().err
    few[few.index(str(corrected))] = str(tmp_path / "few_corrected.jsonl")
    assert main(few) == 0
    assert "2 of 5 rows, drawn by seed" in capsys.readouterr().out
    assert len(load_json(tmp_path / "few.jsonl")) == 2
    assert main([*command[:-1], str(hard)]) == 1
    assert "hard.jsonl: is read by this command" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["It is [SEG].", NULL_ANSWER])
def test_what_was_named_where_nothing_fits_is_taken_back(ending, cot_rows, world, tmp_path):
    """References that match nothing are mined on request; their paths end as the plain rows about such do."""
    nulls = [row for row in cot_rows if row["is_null"]]
    wrong = "There is a boat in the middle. So the target is the boat."
    hard = save_json([{**row, "target": f"{wrong} It is [SEG]."} for row in nulls], tmp_path / "hard.jsonl")
    plain = [{**row, "target": cot_target(strip_answer(row["target"]), ending)} for row in nulls]
    plain = save_json([*plain, *(row for row in cot_rows if not row["is_null"])], tmp_path / "cot.jsonl")
    output = tmp_path / "reflective.jsonl"
    command = ["correct", str(hard), "--annotator", f"synthetic:{world}", "--plain", str(plain)]
    assert main([*command, "--output", str(output)]) == 0
    paths = [row for row in load_json(output) if row["id"].endswith("#reflective")]
    assert len(paths) == len(nulls) > 0
    for row in paths:
        assert row["target"].startswith(wrong)
        assert row["target"].endswith(f"target is null. {ending}")


def test_null_rows_are_mined_on_request(drawing_checkpoint, cot_rows, tmp_path):
    """They are asked about; a mask where nothing fits is a mistake."""
    some = [row for row in cot_rows if row["is_null"]][:2] + [row for row in cot_rows if not row["is_null"]][:2]
    rows = save_json(some, tmp_path / "rows.jsonl")
    for flags, taken in (((), some[2:]), (("--null-rows",), some)):
        output = tmp_path / f"hard{len(flags)}.jsonl"
        assert main(["mine", str(drawing_checkpoint), str(rows), "--output", str(output), *flags]) == 0
        journal = (tmp_path / f"hard{len(flags)}.journal.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in journal[1:]] == [row["id"] for row in taken]


def test_mistakes_are_sampled_by_seed(checkpoint, cot_rows, tmp_path):
    """With a temperature another seed gives other answers, the same one the same, in whatever run."""
    rows = save_json([row for row in cot_rows if not row["is_null"]][:4], tmp_path / "rows.jsonl")
    said = {}
    for name, seed in (("one", "1"), ("again", "1"), ("other", "2")):
        output = tmp_path / f"{name}.jsonl"
        command = ["mine", str(checkpoint), str(rows), "--output", str(output), "--max-new-tokens", "8"]
        main([*command, "--temperature", "1.0", "--seed", seed])  # cut answers are not hard, and none is left
        lines = [json.loads(line) for line in (tmp_path / f"{name}.journal.jsonl").read_text().splitlines()[1:]]
        said[name] = {line["id"]: line["completion"] for line in lines}
    assert said["one"] == said["again"] != said["other"]


def test_corrections_alone_among_the_same_plain_rows(hard_rows, cot_rows, world, tmp_path, capsys):
    """Table 4's CT: nobody is asked again, and nothing but the paths differs."""
    hard, plain = save_json(hard_rows, tmp_path / "hard.jsonl"), save_json(cot_rows, tmp_path / "cot.jsonl")
    answers, mixes = tmp_path / "corrected.jsonl", {}
    common = ["correct", str(hard), "--plain", str(plain), "--seed", "3", "--plain-per-reflective", "1"]
    others = {
        "reflective": ["--annotator", f"synthetic:{world}", "--corrected", str(answers)],
        "corrected": ["--answers", str(answers), "--paths", "corrected"],
    }
    for name, flags in others.items():
        assert main([*common, *flags, "--output", str(tmp_path / f"mix-{name}.jsonl")]) == 0
        mixes[name] = load_json(tmp_path / f"mix-{name}.jsonl").to_list()
    assert "5 corrected paths among 10" in capsys.readouterr().out
    right = {row["id"]: row["target"] for row in load_json(answers)}
    for ours, theirs in zip(mixes["corrected"], mixes["reflective"], strict=True):
        identity, _, path = ours["id"].partition("#")
        assert theirs["id"] == (f"{identity}#reflective" if path else identity)
        assert ours["target"] == (right[identity] if path else theirs["target"])
        assert path in ("", "corrected")
    output = ["--output", str(tmp_path / "other.jsonl")]
    assert main([*common, *output]) == 1
    assert "name who corrects with --annotator" in capsys.readouterr().err
    assert main([*common, "--answers", str(plain), *output]) == 1
    assert "is none of the hard rows" in capsys.readouterr().err
    for flags, said in (
        (["--corrected", str(tmp_path / "c.jsonl")], "--corrected does not go with --answers"),
        (["--max-rows", "3"], "--max-rows does not go with --answers"),
        (["--base-url", "http://x"], "--base-url does not go with --answers"),
        (["--estimate"], "--estimate does not go with --answers"),
        (["--paths", "corrected", "--read-mistakes"], "--read-mistakes is of reflective paths"),
    ):
        assert main([*common, "--answers", str(answers), *output, *flags]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "other.jsonl").exists()


def test_earlier_corrections_belong_to_these_rows_and_these_mistakes(hard_rows, cot_rows, world, tmp_path, capsys):
    """Two datasets may share their ids, and two models are wrong about the same rows in other words."""
    hard, plain = save_json(hard_rows, tmp_path / "hard.jsonl"), save_json(cot_rows, tmp_path / "cot.jsonl")
    answers = tmp_path / "corrected.jsonl"
    common = ["correct", "--plain", str(plain), "--plain-per-reflective", "1"]
    asked = [str(hard), "--annotator", f"synthetic:{world}", "--corrected", str(answers)]
    assert main([*common, *asked, "--output", str(tmp_path / "mix.jsonl")]) == 0
    others = {
        "another reference": [{**hard_rows[0], "reference": "the other thing"}, *hard_rows[1:]],
        "another text": [{**hard_rows[0], "target": "I hear a train. It is [SEG]."}, *hard_rows[1:]],
    }
    for said, changed in others.items():
        file = save_json(changed, tmp_path / "changed.jsonl")
        command = [*common, str(file), "--answers", str(answers), "--output", str(tmp_path / "other.jsonl")]
        assert main(command) == 1
        assert f"row {hard_rows[0]['id']!r} " in (err := capsys.readouterr().err)
        assert said in err


def test_the_world_knows_what_is_right_and_what_went_wrong(rows, world):
    annotator = WorldAnnotator(world)
    by_rule = {}
    for row in rows:
        facts = annotator.world.facts(row)
        if facts.target is not None and any(o.sound for o in facts.objects):
            by_rule.setdefault(facts.reference.rule, (row, facts))
    kinds = {}

    def kind(rule, sentences):
        row, facts = by_rule[rule]
        text = " ".join(sentences(facts))
        assert world_failure_kind(facts, annotator.world.judge(row, text), text) == annotator.correct(row, text).kind
        return annotator.correct(row, text).kind

    def true(facts, name):
        return facts.sentences(name, "flexible")[0]

    other = "So the target is the submarine."
    for rule in by_rule:
        row, facts = by_rule[rule]
        assert annotator.correct(row, annotator.world.reasoning(row)).right
        kinds[rule] = kind(rule, lambda facts: [true(facts, "seen"), true(facts, "heard"), other])
    assert set(kinds.values()) == {"contradiction"}
    hearing = next(rule for rule, (_, facts) in by_rule.items() if facts.reference.kind == "hearing")
    assert kind(hearing, lambda facts: [true(facts, "seen"), other]) == "general_knowledge"
    assert kind(hearing, lambda facts: ["I hear nothing.", other]) == "audio_perception"
    assert kind(hearing, lambda facts: ["I see a submarine in the middle.", other]) == "visual_misidentification"

    def moved(facts):
        text = true(facts, "seen")
        for place, elsewhere in (("on the left", "in the middle"), ("on the right", "in the middle")):
            text = text.replace(place, elsewhere)
        return [text if text != true(facts, "seen") else text.replace("in the middle", "on the left"), other]

    assert kind(hearing, moved) == "spatial_referential"
    colour = by_rule.get("colour")
    if colour is not None:
        named = colour[1].target.colour
        wrong = "green" if named != "green" else "red"
        assert kind("colour", lambda facts: [true(facts, "seen").replace(named, wrong), other]) == "entity_attribute"


def test_a_hand_bell_in_the_wrong_place_is_no_other_object(world):
    """Names may hold other names."""
    annotator = WorldAnnotator(world)
    every = (annotator.world.facts(row) for split in SPLITS for row in load_refavs(world, split))
    facts = next(facts for facts in every if any(o.class_name == "hand-bell" for o in facts.objects))
    text = facts.sentences("seen", "flexible")[0]
    wrong = text.replace("on the left", "in the middle")
    wrong = (
        wrong if wrong != text else text.replace("in the middle", "on the left").replace("on the right", "on the left")
    )
    assert wrong != text
    assert world_failure_kind(facts, Judgement(False, (wrong,)), wrong) == "spatial_referential"
