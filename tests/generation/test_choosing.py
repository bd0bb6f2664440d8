"""One answer out of several: by hand, and the same again whenever it is asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aurora_trl import AuroraModel, AuroraPipeline
from aurora_trl.cli import main
from aurora_trl.data import DataError, save_json
from aurora_trl.evaluation.evaluate import evaluate_model
from aurora_trl.evaluation.rescoring import score_again
from aurora_trl.generation.answer import Answer
from aurora_trl.generation.answers import answer_rows, load
from aurora_trl.generation.checking import check_answers, tint, word_log_probs
from aurora_trl.generation.choosing import Choosing, Cost, best_of, choose_answers, vote
from aurora_trl.generation.clip_loader import ClipLoader, pad_ids
from aurora_trl.models.objects import mean_quality
from aurora_trl.prompts import CHECK_WORDS, build_check_prompt

BEST, VOTE, RETRY = Choosing(3), Choosing(3, by="vote"), Choosing(retries=2, threshold=1.0)


@pytest.fixture(scope="module")
def drawing(drawing_checkpoint):
    return AuroraModel.from_pretrained(drawing_checkpoint).eval()


def answer(text, *, quality=None, plane=None, tokens=2, score=None):
    logits = None if plane is None else torch.tensor(plane, dtype=torch.float)[None]
    return Answer(
        {"id": "a"}, text, logits, tokens, decoded_logits=logits, seg_features=None, quality=quality, score=score
    )


def ask(model, processor, rows, choosing=None, **settings):
    return list(answer_rows(model, processor, rows, max_new_tokens=12, choosing=choosing, **settings))


def same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.completion, mine.score, mine.cost) == (other.completion, other.score, other.cost)
        assert (mine.mask_logits is None) == (other.mask_logits is None)
        assert mine.mask_logits is None or torch.equal(mine.mask_logits, other.mask_logits)


def test_the_best_by_hand():
    given = [answer("none"), answer("a", quality=0.2, tokens=3), answer("b", quality=0.7), answer("c", quality=0.7)]
    kept = best_of(given)
    assert (kept.completion, kept.score, kept.cost) == ("b", 0.7, Cost(4, 9))
    assert best_of([answer("a"), answer("b")]).completion == "a"
    assert best_of([answer("a", quality=-3.0), answer("none")]).completion == "a"


def test_a_vote_by_hand():
    """Who draws nothing votes for nothing, surely; of two against two the surer decide."""
    keep = lambda logits, size: logits  # noqa: E731
    planes = ([[2.0, 1, -1]], [[3.0, -2, -1]], [[1.0, 4, -5]], None)
    given = [answer(name, plane=plane, tokens=3) for name, plane in zip("abcd", planes, strict=True)]
    kept = vote(given, keep)
    # Columns in order, the mean of the two in the middle: -20 1 2 3; -20 -2 1 4; -20 -5 -1 -1.
    assert kept.decoded_logits.tolist() == [[[1.5, -0.5, -3.0]]]
    assert (kept.completion, kept.score, kept.cost) == ("b", 1.0, Cost(4, 12))
    assert vote(given[:3], keep).decoded_logits.tolist() == [[[2.0, 1, -1]]]
    nothing = vote([given[0], given[3], given[3], given[1]], keep)
    assert (nothing.completion, nothing.mask_logits, nothing.cost.tokens) == ("d", None, 12)


def test_the_quality_of_an_answer_by_hand():
    """The last frame of the first row is past the clip's end; the second answer has no mask, the third two objects."""
    quality = torch.tensor([[[0.2, 0.4, 9.0], [9.0] * 3], [[1.0] * 3] * 2, [[0.1] * 3, [0.5] * 3]])
    has_seg = torch.tensor([[True, False], [False, False], [True, True]])
    assert mean_quality(quality, has_seg, [2, 3, 3]) == [pytest.approx(0.3), None, pytest.approx(0.3)]
    assert mean_quality(quality[:, 0], has_seg[:, 0], [2, 3, 3])[:2] == [pytest.approx(0.3), None]


def test_retries_by_hand():
    """Row 0 is right at once; row 1 at its second retry; row 2 never, and its best is kept."""
    scores = {"0.": 0.9, "1.": 0.1, "2.": 0.2, "1a": 0.3, "2a": 0.4, "1b": 0.6, "2b": 0.1, "2c": 0.4}
    names, asked, drawn, looks = iter(".abc"), [], [], []

    def write(numbers, **settings):
        asked.append((list(numbers), settings))
        drawn.append(torch.rand(()).item())
        name = next(names)
        return [answer(f"{number}{name}") for number in numbers]

    def check(numbers, answers):
        looks.append(list(numbers))
        return [scores[each.completion] for each in answers]

    rows = [{"id": str(number), "reference": "a"} for number in range(3)]
    choosing = Choosing(retries=3, temperature=0.5)
    before = torch.random.get_rng_state()
    kept = choose_answers(choosing, rows, write, check, None)
    sampling = {"do_sample": True, "temperature": 0.5}
    assert asked == [([0, 1, 2], {}), ([1, 2], sampling), ([1, 2], sampling), ([2], sampling)]
    assert [(each.completion, each.score) for each in kept] == [("0.", 0.9), ("1b", 0.6), ("2a", 0.4)]
    assert [each.cost for each in kept] == [Cost(1, 2, 1), Cost(3, 6, 3), Cost(4, 8, 4)]
    assert looks == [[0, 1, 2], [1, 2], [1, 2], [2]]
    # Each attempt has random numbers of its own, which hang on nothing that was drawn before.
    assert len(set(drawn)) == 4
    torch.random.set_rng_state(before)
    torch.rand(())
    names, first = iter(".abc"), drawn.copy()
    drawn.clear()
    choose_answers(choosing, rows, write, check, None)
    assert drawn[1:] == first[1:]


def test_the_same_answer_is_looked_at_once():
    names, looks = iter("aabb"), []

    def check(numbers, answers):
        looks.extend(each.completion for each in answers)
        return [0.1 for _ in answers]

    write = lambda numbers, **settings: [answer(next(names)) for _ in numbers]  # noqa: E731
    (kept,) = choose_answers(Choosing(retries=3), [{"id": "0", "reference": "a"}], write, check, None)
    assert looks == ["a", "b"]
    assert (kept.completion, kept.cost) == ("a", Cost(4, 8, 2))


@pytest.mark.parametrize("choosing", [BEST, VOTE, RETRY], ids=["best", "vote", "retry"])
def test_a_batch_is_answered_the_same_again(choosing, drawing, processor, rows):
    some = rows.to_list()[:5]
    settings = {"batch_size": 2, "choosing": replace(choosing, temperature=3.0)}
    torch.manual_seed(1)
    ours = ask(drawing, processor, some, **settings)
    torch.manual_seed(2)
    torch.rand(3)
    same(ours[2:], ask(drawing, processor, some[2:], **settings))
    assert all(each.cost.answers == 3 and each.cost.tokens >= each.num_tokens for each in ours)
    drawn = [each for each in ours if each.mask_logits is not None]
    assert drawn
    for each in drawn if choosing is VOTE else ():
        size = tuple(each.mask_logits.shape[1:])
        assert torch.equal(processor.restore_masks(each.decoded_logits, size), each.mask_logits)
    checks = {each.cost.checks for each in ours}
    assert checks <= {1, 2, 3} if choosing is RETRY else checks == {0}
    others = ask(drawing, processor, some, **{**settings, "choosing": replace(settings["choosing"], seed=1)})
    assert [each.cost for each in ours] != [each.cost for each in others]


def test_without_a_choice_nothing_changes(drawing, processor, rows):
    """Also the first try of retries that are content with it is the answer as it always was."""
    some = rows.to_list()[:3]
    plain = ask(drawing, processor, some)
    same(plain, ask(drawing, processor, some, Choosing(seed=3)))
    content = ask(drawing, processor, some, Choosing(retries=2, threshold=0.0))
    assert [(each.completion, each.cost.answers) for each in content] == [(each.completion, 1) for each in plain]
    assert all(torch.equal(a.mask_logits, b.mask_logits) for a, b in zip(content, plain, strict=True))
    assert all(each.quality is None and each.cost is None for each in plain)


def test_answers_are_sampled_from_all_tokens(drawing, processor, rows, monkeypatch):
    """And not from the 50 likeliest, which is transformers' own default; unless it is asked for."""
    generate, asked = drawing.generate, []
    monkeypatch.setattr(
        drawing, "generate", lambda **settings: asked.append(settings["top_k"]) or generate(**settings)
    )
    some = rows.to_list()[:1]
    ask(drawing, processor, some, Choosing(2))
    list(answer_rows(drawing, processor, some, max_new_tokens=4, choosing=Choosing(2), top_k=7))
    assert asked == [0, 7]


def test_samples_that_share_a_prompt_are_those_of_whole_rows(drawing, processor, rows, monkeypatch):
    """The prompt is read once for all of them; read for each they are the same, and the best of them is, too."""
    some, encoded = rows.to_list()[:2], []
    encode = type(drawing.base_model).encode_media

    def count(self, *args, **media):
        if media:
            encoded.append(len(media["audio_values"]))
        return encode(self, *args, **media)

    monkeypatch.setattr(type(drawing.base_model), "encode_media", count)
    choosing = Choosing(4, temperature=2.0)
    shared = ask(drawing, processor, [some[0], {**some[0], "id": "b"}, some[1]], choosing)
    assert encoded == [len({tuple(row["frames"]) for row in some})]
    monkeypatch.setattr(type(drawing.policy), "supports_shared_prefix", False)
    whole = ask(drawing, processor, [some[0], {**some[0], "id": "b"}, some[1]], choosing)
    for ours, theirs in zip(shared, whole, strict=True):
        assert (ours.completion, ours.cost) == (theirs.completion, theirs.cost)
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        torch.testing.assert_close(ours.mask_logits, theirs.mask_logits, atol=1e-4, rtol=1e-4)


def test_what_the_policy_is_shown(drawing, processor, rows):
    """Its frames with the mask tinted, nothing tinted where there is none, and what it said without `[SEG]`."""
    row = dict(rows[0])
    (given,) = ask(drawing, processor, [row])
    frames = np.zeros((10, 48, 48, 3), np.uint8)
    given.mask_logits = torch.full_like(given.mask_logits, -1.0)
    given.mask_logits[2:, :4] = 1.0
    shown = tint(given, frames)
    assert not shown[:2].any()
    assert shown[2:, :4].any(axis=-1).all()
    assert not shown[:, 36:].any()
    two = replace(given, object_logits=torch.stack([given.mask_logits, -given.mask_logits]))
    assert not np.array_equal(tint(two, frames), shown)
    assert tint(replace(given, mask_logits=None), frames) is frames
    (turn,) = build_check_prompt({**row, "reference": "what {sounds}"}, "The bell rings")
    assert turn["content"][-1]["text"].startswith("what {sounds}. An answer to this tinted")
    assert "and said: The bell rings. Is the object" in turn["content"][-1]["text"]
    loader = ClipLoader(processor)
    ours, theirs = loader.clip(row), loader.changed_clip(row, lambda frames: frames)
    assert "mask_frames" not in theirs
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    changed = loader.changed_clip(row, lambda frames: tint(given, frames))
    assert not torch.equal(changed["pixel_values_videos"], ours["pixel_values_videos"])
    assert torch.equal(changed["audio_values"], ours["audio_values"])


@torch.no_grad()
def test_the_verdict_is_teacher_forced(drawing, processor, rows):
    """Words of one token and of several, as a forward over each row alone has them."""
    some = [dict(row) for row in rows.select(range(3))]
    given = ask(drawing, processor, some)
    loader, names = ClipLoader(processor), ("pixel_values_videos", "audio_values")
    clips = [loader.clip(row) for row in some]
    prompts = [processor.prompt_ids(row, clip) for row, clip in zip(some, clips, strict=True)]
    prompts = [[*ids, *range(40, 40 + number)] for number, ids in enumerate(prompts)]
    words = [[5], [7], [5, 9, 11]]
    media = {name: torch.stack([clip[name] for clip in clips]) for name in names}
    embeds = drawing.base_model.encode_media(**media).as_inputs()
    together = word_log_probs(drawing, prompts, words, processor.tokenizer.pad_token_id, **embeds)
    for row, (prompt, clip) in enumerate(zip(prompts, clips, strict=True)):
        for column, word in enumerate(words):
            ids = torch.tensor([prompt + word])
            alone = {name: clip[name][None] for name in names}
            logits = drawing(input_ids=ids, attention_mask=torch.ones_like(ids), **alone).logits[0]
            before = logits[-1 - len(word) : -1].log_softmax(dim=-1)
            expected = before[range(len(word)), word].sum()
            torch.testing.assert_close(together[row, column], expected, atol=1e-4, rtol=1e-4)
    verdicts = check_answers(drawing, processor, loader, some, given)
    assert all(0 < verdict < 1 for verdict in verdicts)
    alone = [check_answers(drawing, processor, loader, [row], [one])[0] for row, one in zip(some, given, strict=True)]
    assert verdicts == pytest.approx(alone, abs=1e-4)
    ids = [processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in CHECK_WORDS]
    assert ids[0] != ids[1]
    assert pad_ids(ids, 0).shape[0] == 2


@pytest.mark.parametrize("kind", [True, "qwen3"], ids=["omni", "qwen3"])
def test_policies_with_other_positions(kind, qwen_checkpoints, rows, monkeypatch):
    """Their prompts are read once, too, and their verdict does not hang on the batch."""
    model, processor = load(qwen_checkpoints[kind], "cpu")
    some = rows.to_list()[:2]
    shared = ask(model, processor, some, Choosing(2, temperature=2.0))
    verdicts = check_answers(model, processor, ClipLoader(processor), some, shared)
    pairs = zip(some, shared, strict=True)
    alone = [check_answers(model, processor, ClipLoader(processor), [row], [each])[0] for row, each in pairs]
    assert verdicts == pytest.approx(alone, abs=1e-4)
    monkeypatch.setattr(type(model.policy), "supports_shared_prefix", False)
    whole = ask(model, processor, some, Choosing(2, temperature=2.0))
    assert [(each.completion, each.cost) for each in shared] == [(each.completion, each.cost) for each in whole]


@pytest.mark.parametrize("choosing", [VOTE, RETRY], ids=["vote", "retry"])
def test_an_evaluation_that_was_cut_continues_to_the_bit(
    choosing, drawing, processor, drawing_checkpoint, rows, tmp_path
):
    some = [dict(row) for row in rows.select(range(6))]
    lost = {**some[4], "audio": str(tmp_path / "lost.wav")}
    settings = {"batch_size": 2, "max_new_tokens": 8, "choosing": choosing, "protocol": "davis"}

    def evaluate(name, used, **others):
        return evaluate_model(drawing, processor, {"train": used}, tmp_path / name, **settings, **others)

    with pytest.raises(DataError, match=r"lost\.wav"):
        evaluate("eval", [*some[:4], lost, some[5]], checkpoint=drawing_checkpoint)
    (tmp_path / "lost.wav").write_bytes(Path(some[4]["audio"]).read_bytes())
    whole = evaluate("whole", [*some[:4], lost, some[5]])
    assert evaluate("eval", [*some[:4], lost, some[5]], checkpoint=drawing_checkpoint) == whole
    for name in ("answers.jsonl", "metrics.json", "scores.davis.jsonl"):
        assert (tmp_path / "eval" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert whole["choosing"] == choosing.settings()
    scores = whole["splits"]["train"]
    assert scores["mean_written_tokens"] > scores["mean_tokens"]
    assert scores["mean_answers"] == 3.0
    assert {"mean_written_tokens", "mean_answers"} <= scores["errors"].keys()
    # What was kept of a vote is the vote.
    again = score_again(tmp_path / "eval", {"train": [*some[:4], lost, some[5]]}, ["per_frame"])
    assert again["per_frame"]["choosing"] == whole["choosing"]
    with pytest.raises(DataError, match="scored by `davis` already"):
        score_again(tmp_path / "eval", {"train": some}, ["davis"])


def test_by_the_commands(drawing_checkpoint, rows, tmp_path, capsys):
    some = [dict(row) for row in rows.select(range(2))]
    data = save_json(some, tmp_path / "rows.jsonl")
    common = ["--max-new-tokens", "6", "--num-answers", "2", "--choose", "vote", "--temperature", "0.8", "--seed", "4"]
    command = ["evaluate", str(drawing_checkpoint), "--data", str(data), "--splits", "train", *common]
    assert main([*command, "--output", str(tmp_path / "eval")]) == 0
    assert "a row took 2.00 answers" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["choosing"] == {"num_answers": 2, "by": "vote", "temperature": 0.8, "seed": 4}
    command = ["segment", "--model", str(drawing_checkpoint), "--frames", *some[0]["frames"], "--reference", "what"]
    command += ["--output", str(tmp_path / "seg"), "--max-new-tokens", "6", "--retries", "1", "--threshold", "1"]
    assert main(command) == 0
    choice = json.loads((tmp_path / "seg" / "result.json").read_text())["choice"]
    assert choice["answers"] == 2
    assert choice["checks"] in (1, 2)


BAD = {
    "both": (["--num-answers", "2", "--retries", "1"], "--num-answers samples several answers at once"),
    "choose alone": (["--choose", "vote"], "--choose goes with --num-answers above 1"),
    "check alone": (["--num-answers", "2", "--check", "quality"], "--check goes with --retries"),
    "temperature alone": (["--temperature", "0.5"], "--temperature is about answers that are sampled"),
    "cold": (["--num-answers", "2", "--temperature", "0"], "must be above 0"),
    "threshold": (["--retries", "2", "--threshold", "1.5"], "must be at least 0 and at most 1"),
    "no answer": (["--num-answers", "0"], "must be at least 1"),
}


@pytest.mark.parametrize(("flags", "fault"), BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("command", ["evaluate", "segment"])
def test_bad_flags(command, flags, fault, tmp_path, capsys):
    given = {
        "evaluate": ["evaluate", "nowhere", "--data", "nowhere"],
        "segment": ["segment", "--model", "nowhere", "--reference", "a"],
    }[command]
    with_output = [*given, "--output", str(tmp_path / "new"), *flags]
    try:
        code = main(with_output)
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    assert fault in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"num_answers": 0}, "`num_answers` must be at least 1, got 0"),
        ({"retries": -1}, "`retries` must be at least 0"),
        ({"by": "luck"}, "`by` must be one of quality, vote, got 'luck'"),
        ({"check": "luck"}, "`check` must be one of policy, quality"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"threshold": float("nan")}, "`threshold` must be from 0 to 1"),
        ({"num_answers": 2, "retries": 1}, "ask for one"),
    ],
)
def test_bad_settings(settings, fault):
    with pytest.raises(ValueError, match=fault):
        Choosing(**settings)


def test_what_can_not_be_chosen_is_said_first(drawing, processor, rows, tmp_path, monkeypatch):
    row = dict(rows[0])
    with pytest.raises(ValueError, match="`num_beams` does not go with a choice"):
        ask(drawing, processor, [row], BEST, num_beams=2)
    with pytest.raises(ValueError, match="a vote is about one mask, and this model draws several objects"):
        ask(drawing, processor.with_max_objects(2), [row], VOTE)
    pipe = AuroraPipeline(drawing, processor)
    with pytest.raises(ValueError, match=r"every frame: a vote of several answers has no \[SEG\]"):
        pipe("what sounds", video="nowhere.mp4", frames="all", choosing=VOTE)
    voted = pipe(row["reference"], frames=row["frames"], audio=row["audio"], choosing=VOTE, max_new_tokens=6)
    assert (voted.voted, voted.cost.answers) == (True, 3)
    with pytest.raises(ValueError, match="every frame: a vote"):
        pipe.every_frame(voted)
    monkeypatch.setattr(type(drawing.mask_decoder), "gives_quality", False)
    with pytest.raises(ValueError, match="SamMaskDecoder does not score its masks: choose by `vote`"):
        ask(drawing, processor, [row], BEST)
