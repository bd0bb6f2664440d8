"""`report.html`: it opens offline, shows what there is, and takes no text for markup."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from aurora_trl.data.masks import encode_rle, load_masks
from aurora_trl.evaluation.report import write_report

EVIL = "the <b>drum</b> \"that\" </script><script>alert('1')</script> & {{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "input", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Every element with its attributes, the texts outside of scripts and styles, and what is not closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open[-1:]):
            self.texts.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(attributes[name]) for own, attributes in self.elements if own == tag and name in attributes]


def write_phase(folder, row, shift: int, completion: str, scores: dict[str, float]):
    """An evaluation of one row, with errors, and the log of its training."""
    drawn = np.roll(load_masks(row), shift, axis=2)
    answer = {
        "id": row["id"],
        "reference": EVIL,
        "class_name": row["class_name"],
        "completion": completion,
        "num_tokens": 9,
        "cut": False,
        "class_correct": shift == 0,
        "masks": [encode_rle(mask) for mask in drawn],
        "j": 1.0 if shift == 0 else 0.25,
        "split": "test_s",
        "swap": None,
        "kind": "sight",
    }
    shares = dict.fromkeys(("class_accuracy", "format_accuracy", "seg_share", "reflective_share", "cut_share"), 0.5)
    by_kind = {"sight": {"J": 0.5, "rows": 1}}
    split = {**scores, **shares, "null_accuracy": None, "rows": 1, "mean_tokens": 9.0, "by_kind": by_kind}
    split["errors"] = {"J": 0.0123, "class_accuracy": 0.02}
    evaluation = folder / "eval"
    evaluation.mkdir(parents=True)
    (evaluation / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    metrics = {"protocol": "refavs", "splits": {"test_s": split}, "swaps": {}, "instruction": "{reference} Where?"}
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    history = [{"step": step, "loss": 1 / step, EVIL: 1.0} for step in range(1, 900)]
    history.append({"step": 899, "train_runtime": 120.0, "train_samples_per_second": 3.5, "total_flos": 2e12})
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (folder / "recipe.yaml").write_text("output_dir: </pre><script>x</script>\n")


@pytest.fixture(scope="module")
def page_text(rows, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    row = next(dict(row) for row in rows if not row["is_null"])
    row["reference"] = EVIL
    scores = {"J": 0.5, "F": 0.6, "J&F": 0.55, "S": 0.1}
    write_phase(root / "sft", row, 5, "So the target is the harp. It is [SEG].", scores)
    write_phase(root / "grpo", row, 0, f"{EVIL} It is [SEG].", {**scores, "J": 0.75})
    phases = ("sft", "grpo")
    journal = [{"settings": {}}, {"id": "a", "attempt": 1, "input_tokens": 2900, "output_tokens": 90}]
    (root / "cot.journal.jsonl").write_text("\n".join(map(json.dumps, journal)) + "\n")
    report = write_report(
        root,
        {phase: root / phase / "eval" for phase in phases},
        {phase: root / phase for phase in phases},
        {row["id"]: row},
        durations=[("sft", 90.0), ("grpo", 45.0)],
        settings={"pipeline.yaml": "seed: 1\n"},
        price_per_hour=4.0,
    )
    assert report == root / "report.html"
    assert (root / "report.md").is_file()
    return report.read_text()


@pytest.fixture(scope="module")
def page(page_text):
    return Page(page_text)


def test_it_is_one_file(page, page_text):
    """No address outside of it, and nothing of what data hold is markup."""
    sources = page.attributes("img", "src") + page.attributes("video", "src")
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not page.attributes("link", "href")
    assert not page.attributes("script", "src")
    assert not re.search(r"https?://|url\(|@import", page_text)
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "b" not in [tag for tag, _ in page.elements]


def test_prompt_answer_scores_and_settings_are_there(page):
    text = " ".join(" ".join(page.texts).split())
    shown = " ".join(EVIL.split())
    assert f"<video> <audio> {shown}. Where?" in text
    assert f"{shown} It is [SEG]." in text
    assert "So the target is the harp. It is [SEG]." in text  # of the other phase
    assert "0.750 ± 0.012" in text
    assert "0.50 ± 0.02" in text
    assert "sft → grpo 1 +0.750 1 0" in text
    assert "1.5 min, cost 0.10" in text
    assert "2.2 minutes in all, which cost 0.15" in text
    assert "899 2.0 3.50 2e+12" in text
    assert "cot 1 2,900 90" in text
    assert "output_dir: </pre><script>x</script>" in text
    assert "seed: 1" in text
    assert re.search(r"transformers \d", text)


def test_curves_have_numbers_to_hover_over(page):
    panels = [json.loads(content) for content in page.attributes("figure", "data-curves")]
    assert len(panels) == 1  # of what was logged the report knows the loss alone
    sft, grpo = panels[0]["lines"]
    assert (sft["title"], grpo["title"]) == ("sft", "grpo")
    assert sft["color"] != grpo["color"]
    assert sft["x"][0] == 1
    assert sft["x"][-1] == 899
    assert len(sft["x"]) == len(sft["y"]) == 300
    assert len(page.attributes("polyline", "points")) == 4


def test_clips_play_and_pictures_open(page):
    kind, content = page.attributes("video", "src")[0].split(",", 1)
    assert kind == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(content))) as container:
        assert container.streams.audio
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 11  # ten, and the last once more at the end
    left, right = frames[0][:, :180].astype(int), frames[0][:, 186:].astype(int)
    assert np.abs(left - right).max() > 60
    pictures = page.attributes("img", "src")
    assert len(pictures) == 3  # the same answer is good, typical and bad
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].split(",", 1)[1]))) as picture:
        assert picture.width == 1000
