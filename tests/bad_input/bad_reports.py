"""What `aurora evaluate`, a trainer and a chain left behind, as the report of a chain reads it."""

import json
from typing import Any

from kinds import Kind, Place

from aurora_trl.evaluation.metrics import get_protocol

SCORES = dict.fromkeys(get_protocol("refavs").scores, 0.5)
METRICS: dict[str, Any] = {
    "protocol": "refavs",
    "splits": {"test_s": {**SCORES, "rows": 1, "mean_tokens": 9.0, "by_kind": {"order": {"J": 0.5, "rows": 1}}}},
    "swaps": {"audio": {**SCORES, "split": "test_s"}},
}
ANSWER: dict[str, Any] = {
    "id": "a",
    "split": "test_s",
    "swap": None,
    "j": 0.5,
    "reference": "the drum",
    "class_name": "drum",
    "completion": "It is [SEG].",
    "masks": None,
}


def changed(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The content with another value at a path of keys; `...` takes the key out."""
    content = json.loads(json.dumps(content))
    *parents, key = path.split("/")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner.pop(key, None)
    if value is not ...:
        inner[key] = value
    return content


def report(
    name: str,
    *named: str,
    metrics: object = METRICS,
    answers: object = ANSWER,
    state: object = None,
    record: object = None,
    words: str = "",
) -> Kind:
    """The report of one phase, one file of which is broken, or which is asked for with more flags."""

    def command(place: Place) -> list[str]:
        for file, content in {
            "eval/sft/metrics.json": metrics,
            "eval/sft/answers.jsonl": answers,
            "sft/trainer_state.json": state,
            ".pipeline/sft.json": record,
        }.items():
            if content is not None:
                written = content if isinstance(content, (str, bytes)) else json.dumps(content)
                place.write(f"chain/{file}", written)
        return ["report", f"{place.root}/chain", "--phases", "sft", "--data", str(place.world), *words.split()]

    return Kind(name, command, named)


def score(name: str, path: str, value: object, *named: str) -> Kind:
    return report(name, "metrics.json", *named, metrics=changed(METRICS, path, value))


def tables(name: str, file: str, content: object, *named: str) -> Kind:
    """The paper's tables from a study of one row, one file of which is broken."""

    def command(place: Place) -> list[str]:
        place.write("study/eval/sft/metrics.json", json.dumps(METRICS))
        place.write(f"study/{file}", content if isinstance(content, str) else json.dumps(content))
        return ["report", f"{place.root}/study", "--tables"]

    return Kind(name, command, named)


def score_again(name: str, *named: str, words: str = "--protocol aurora", metrics: object = METRICS) -> Kind:
    """Scoring what an evaluation has not left as it should."""

    def command(place: Place) -> list[str]:
        if metrics is not None:
            place.write("eval/metrics.json", json.dumps(metrics))
        return ["score", f"{place.root}/eval", "--data", str(place.world), *words.split()]

    return Kind(name, command, named)


KINDS = [
    report("a report by another protocol", "--protocol aurora is for --tables", "refavs", words="--protocol aurora"),
    tables("scores of a row cut short", "eval/sft/scores.refavs.jsonl", '{"id', "scores.refavs.jsonl, line 1"),
    tables(
        "scores of a row without its clip",
        "eval/sft/scores.refavs.jsonl",
        {"id": "a", "row": 1},
        "line 1",
        "no `clip`",
    ),
    tables("answers of a phase cut short", "eval/sft/answers.jsonl", '{"id', "answers.jsonl, line 1"),
    tables("failures without numbers", "reflective.report.json", {"kinds": {"temporal": 3}}, "`temporal`", "`count`"),
    tables("a log of GRPO without steps", "grpo/trainer_state.json", {"log_history": 3}, "`log_history`"),
    score_again("nothing to score again", "eval/metrics.json", metrics=None),
    score_again("an evaluation without logits", "keeps no logits", "--no-logits"),
    score_again("a protocol to score again that is not known", "'other'", words="--protocol other"),
    report("scores cut short", "metrics.json", "not valid JSON", metrics='{"splits'),
    report("scores that are a list", "metrics.json", "holds a list", metrics=[1]),
    report("scores nested without end", "metrics.json", "nested too deep", metrics="[" * 100_000),
    report("scores in UTF-16", "metrics.json", "UTF-8", metrics=json.dumps(METRICS).encode("utf-16")),
    score("scores of no split to report", "splits", {}, "no scores by split"),
    score("scores of a split that are a list", "splits/test_s", [1], "test_s has no number `J`"),
    score("a score that is a text", "splits/test_s/J", "high", "test_s has no number `J`"),
    score(
        "no S where nothing matches",
        "splits",
        {"test_n": {name: value for name, value in METRICS["splits"]["test_s"].items() if name != "S"}},
        "test_n has no number `S`",
    ),
    score("scores of a dataset that is a text", "data", "here", "`data` is no mapping"),
    score("a share that is a text", "splits/test_s/cut_share", "few", "test_s has no number `cut_share`"),
    score("scores by kind that are a list", "splits/test_s/by_kind", [1], "`by_kind`"),
    score("a score by kind that is missing", "splits/test_s/by_kind/order/J", ..., "test_s, order has no number `J`"),
    score("a protocol that no scores follow", "protocol", "other", "'other'"),
    score("swaps that are a list", "swaps", [1], "`swaps`"),
    score("a swap without scores", "swaps/audio", {"split": "test_s"}, "swap of audio has no number"),
    score("a swap of another split", "swaps/audio/split", "test_x", "swap of audio"),
    report("no answers", "answers.jsonl", "no such file", answers=None),
    report("answers in UTF-16", "answers.jsonl", "UTF-8", answers=json.dumps(ANSWER).encode("utf-16")),
    report("an answer cut short", "answers.jsonl, line 1", answers='{"id'),
    report("an answer that is a list", "answers.jsonl, line 1", "a list", answers=[1]),
    report("an answer without its text", "line 1", "no `completion`", answers=changed(ANSWER, "completion", ...)),
    report("an answer whose score is a text", "line 1", "`j`", answers=changed(ANSWER, "j", "high")),
    report("a log cut short to report", "trainer_state.json", "not valid JSON", state='{"log'),
    report("a log without steps", "trainer_state.json", "`log_history`", state={"log_history": [{"loss": 1}]}),
    report(
        "a log of a loss that is a text",
        "trainer_state.json",
        "'high'",
        "`loss`",
        state={"log_history": [{"step": 1, "loss": "high"}]},
    ),
    report("a record of a step of many seconds", "sft.json", "`seconds`", record={"seconds": "many"}),
]
