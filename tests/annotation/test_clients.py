"""The annotators through their real clients, against servers on loopback: nothing is lost, nothing asked twice."""

import io
import json
import os
import signal
import sys
import threading
import time

import pytest
import soundfile
from annotation_servers import Action, answer_well, serve
from PIL import Image

from aurora_trl.annotation import RunLimits, annotate_file, get_annotator
from aurora_trl.annotation.limits import CapReached
from aurora_trl.data import DataError, load_json
from aurora_trl.journal import beside
from aurora_trl.prompts import ends_with_answer, extract_class, normalize_class

KEY = "sk-very-secret-0123456789"
QUICK = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.02}


@pytest.fixture(params=["openai", "gemini"])
def backend(request, monkeypatch):
    monkeypatch.setenv("ANNOTATOR_KEY", KEY)
    return request.param


@pytest.fixture
def some_rows(rows):
    """Six rows with references of their own."""
    chosen = {}
    for row in rows:
        if not row["is_null"]:
            chosen.setdefault(row["reference"], row)
    return list(chosen.values())[:6]


def connect(backend, server, timeout_seconds=300.0):
    url = server.url + ("/v1" if backend == "openai" else "")
    return get_annotator(
        f"{backend}:some-model", base_url=url, key_variable="ANNOTATOR_KEY", timeout_seconds=timeout_seconds
    )


def run(backend, server, rows, output, *, timeout_seconds=300.0, **limits):
    annotator = connect(backend, server, timeout_seconds)
    return annotate_file(rows, annotator, output, limits=RunLimits(**{"concurrency": 3, **QUICK, **limits}))


def assert_all_written(rows, output):
    written = load_json(output)
    assert written["id"] == [row["id"] for row in rows]
    for row in written:
        assert ends_with_answer(row["target"])
        assert extract_class(row["target"]) == normalize_class(row["class_name"])


def test_a_key_in_place_of_its_variable_is_not_repeated(monkeypatch):
    for given in (KEY, "AIzaSyVerySecret0123456789", "my_secret_key"):
        with pytest.raises(DataError, match="is not the name of an environment variable") as raised:
            get_annotator("gemini:m", key_variable=given)
        assert given not in str(raised.value)
    monkeypatch.setenv("my_key", KEY)  # a name that is not as most are, and set
    assert get_annotator("openai:m", key_variable="my_key").client._key == KEY


def test_a_request_shows_the_clip_and_the_key_stays_out_of_sight(backend, some_rows, tmp_path, capfd):
    output = tmp_path / "cot.jsonl"
    with serve(lambda request, number: Action(f"I was sent {KEY}. {request.good_answer}")) as server:
        summary = run(backend, server, some_rows, output, input_price=1.0, output_price=10.0)
    assert (summary.written, summary.failed, summary.failed_path) == (6, 0, None)
    assert_all_written(some_rows, output)
    assert sorted(server.references()) == sorted(row["reference"] for row in some_rows)
    for request in server.requests:
        assert len(request.pictures) == 3
        assert all(Image.open(io.BytesIO(picture)).size == (48, 48) for picture in request.pictures)
        wave, rate = soundfile.read(io.BytesIO(request.sounds[0]))
        assert (rate, wave.shape) == (16000, (160000,))
        assert any(KEY in value for value in request.headers.values())
    said = "".join(capfd.readouterr())
    assert "6 requests, about" in said
    assert "cost about" in said
    for path in tmp_path.iterdir():
        assert KEY not in path.read_text()
    assert KEY not in said
    records = [json.loads(line) for line in beside(output, "journal").read_text().splitlines()[1:]]
    assert {(record["input_tokens"], record["output_tokens"]) for record in records} == {(1000, 100)}


def test_a_rate_limit_holds_back_all_requests(backend, some_rows, tmp_path):
    arrivals = []

    def behave(request, number):
        arrivals.append(time.monotonic())
        if number == 0:
            return Action(status=429, headers={"Retry-After": "2"})
        # Long enough for the first thread to have read that it shall wait, on a busy machine, too.
        return Action(request.good_answer, delay=1.0 if number == 1 else 0.0)

    with serve(behave) as server:
        run(backend, server, some_rows, tmp_path / "cot.jsonl", concurrency=2)
    assert len(server.requests) == 7
    # One request was under way already; all others wait as long as the server asked, on both threads.
    assert min(arrivals[2:]) - arrivals[0] >= 2.0
    assert_all_written(some_rows, tmp_path / "cot.jsonl")


TROUBLES = {
    "cut connection": Action("half of an answer", cut=True),
    "timeout": Action(hang=True),
    "server error": Action(status=503),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_passes(backend, trouble, some_rows, tmp_path):
    """The request that failed is sent again, the others are not."""

    def behave(request, number):
        return trouble if number in (1, 3) else answer_well(request, number)

    # A busy machine may take longer than that for a good answer, too, which is then asked for again.
    patience = {"timeout_seconds": 0.5, "max_retries": 1000} if trouble.hang else {}
    with serve(behave) as server:
        run(backend, server, some_rows, tmp_path / "cot.jsonl", **patience)
        assert len(server.requests) >= 8 if trouble.hang else len(server.requests) == 8
    assert_all_written(some_rows, tmp_path / "cot.jsonl")


NONSENSE = {
    "html": (Action(raw="<html>busy</html>"), ""),
    "html as text": (Action(raw="<html>busy</html>", headers={"Content-Type": "text/html"}), ""),
    "other json": (Action(raw='{"answer": 42}'), ""),
    "empty": (Action(""), ""),
    "cut off": (Action("I see a thing and it", finish="length"), "after 100 tokens"),
    "refusal": (Action("I'm sorry, but I can't listen to audio. So the target is the drum."), "refuses"),
    "other class": (Action("I see a boat and I hear it all along. So the target is the boat."), "names `boat`"),
}


@pytest.mark.parametrize(("nonsense", "problem"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_asked_again_then_listed(backend, nonsense, problem, some_rows, tmp_path):
    bad = some_rows[2]
    output = tmp_path / "cot.jsonl"

    def behave(request, number):
        return nonsense if request.reference == bad["reference"] else answer_well(request, number)

    with serve(behave) as server:
        summary = run(backend, server, some_rows, output, max_attempts=2)
        assert server.references().count(bad["reference"]) == 2
        assert len(server.requests) == 7
        asked_again = [request.prompt for request in server.requests if request.reference == bad["reference"]][1]
        assert "could not be used" in asked_again
        # Nothing more is asked, not even after the run.
        run(backend, server, some_rows, output, max_attempts=2)
        assert len(server.requests) == 7
    assert (summary.written, summary.failed) == (5, 1)
    assert_all_written([row for row in some_rows if row is not bad], output)
    failed = [json.loads(line) for line in (tmp_path / "cot.failed.jsonl").read_text().splitlines()]
    assert [(row["id"], len(row["attempts"])) for row in failed] == [(bad["id"], 2)]
    assert problem in failed[0]["attempts"][0]["problem"]


def test_answers_that_were_broken_off_are_none(some_rows, tmp_path, monkeypatch):
    """A filter, or a server that gives up, may leave a text that looks whole: `VERDICT: right` is one."""
    monkeypatch.setenv("ANNOTATOR_KEY", KEY)
    for reason in ("content_filter", "abort", "max_tokens"):
        with (
            serve(lambda request, number, reason=reason: Action(request.good_answer, finish=reason)) as server,
            pytest.raises(DataError, match="none of 1 rows got a usable answer"),
        ):
            run("openai", server, some_rows[:1], tmp_path / f"{reason}.jsonl", max_attempts=1)


def test_a_cost_that_nobody_counts_can_not_be_capped(some_rows, tmp_path, monkeypatch):
    """The answer that shows it is paid for, and kept."""
    monkeypatch.setenv("ANNOTATOR_KEY", KEY)

    def behave(request, number):
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": request.good_answer},
            "finish_reason": "stop",
        }
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return Action(raw=json.dumps(body))

    output, prices = tmp_path / "cot.jsonl", {"input_price": 1.0, "output_price": 10.0, "concurrency": 1}
    with serve(behave) as server:
        with pytest.raises(DataError, match="does not say how many tokens an answer took, so that `max_cost`"):
            run("openai", server, some_rows, output, max_cost=100.0, **prices)
        assert len(server.requests) == 1
        run("openai", server, some_rows, output, max_requests=6, **prices)
        assert len(server.requests) == 6
    assert_all_written(some_rows, output)


def test_a_wrong_key_stops_the_run_and_is_not_shown(backend, some_rows, tmp_path, capfd):
    with serve(lambda request, number: Action(f"bad key {KEY}", status=401)) as server:
        with pytest.raises(DataError, match="bad key \\*\\*\\*") as caught:
            run(backend, server, some_rows, tmp_path / "cot.jsonl", concurrency=1)
        assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in "".join(capfd.readouterr())
    assert not (tmp_path / "cot.jsonl").exists()


def test_a_server_that_is_gone_stops_the_run_and_nothing_is_lost(backend, some_rows, tmp_path):
    def behave(request, number):
        return Action(status=503) if number >= 2 else answer_well(request, number)

    output = tmp_path / "cot.jsonl"
    with serve(behave) as server:
        with pytest.raises(DataError, match="no answer after 2 retries"):
            run(backend, server, some_rows, output, concurrency=1, max_retries=2)
        assert len(server.requests) == 5
        server.behave = answer_well
        run(backend, server, some_rows, output)
        assert len(server.requests) == 9
    assert_all_written(some_rows, output)


def test_rejected_requests_are_listed_and_many_stop_the_run(backend, some_rows, tmp_path):
    with serve(lambda request, number: Action("too large", status=400)) as server:
        with pytest.raises(DataError, match="4 rows one after the other.*too large"):
            run(backend, server, some_rows, tmp_path / "cot.jsonl", concurrency=1, max_attempts=1, max_failures=4)
        assert len(server.requests) == 4


def test_caps_stop_the_run_and_a_higher_one_continues(backend, some_rows, tmp_path):
    output = tmp_path / "cot.jsonl"
    prices = {"input_price": 1.0, "output_price": 10.0}  # an answer: 1,000 + 100 tokens, 0.002
    with serve() as server:
        with pytest.raises(CapReached, match="--max-requests"):
            run(backend, server, some_rows, output, max_requests=2)
        assert len(server.requests) == 2
        annotator = connect(backend, server)
        most = max(annotator.estimate(row, "reasoning").input_tokens for row in some_rows)
        worst = (most + 10 * annotator.client.max_output_tokens) / 1e6
        with pytest.raises(CapReached, match="--max-cost"):
            run(backend, server, some_rows, output, max_cost=2 * 0.002 + worst, **prices)
        assert len(server.requests) == 3  # one more fits, whatever it turns out to take
        run(backend, server, some_rows, output, max_cost=1.0, **prices)
        assert len(server.requests) == 6
    assert_all_written(some_rows, output)


@pytest.fixture
def heeds_interrupts():
    """A shell starts what runs in the background with interrupts ignored, and the tests may run there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class StopsSaid(io.StringIO):
    """Standard error, which tells when the run says that it stops."""

    def __init__(self):
        super().__init__()
        self.said = threading.Event()

    def write(self, text):
        if "stopping" in text:
            self.said.set()
        return super().write(text)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_keeps_the_answers_under_way(backend, some_rows, tmp_path, monkeypatch):
    output, stderr = tmp_path / "cot.jsonl", StopsSaid()
    monkeypatch.setattr(sys, "stderr", stderr)

    def behave(request, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        if number:
            stderr.said.wait()  # these answers come after the interrupt, however late that is heeded
        return Action(request.good_answer, delay=0.4 if number else 0.0)

    with serve(behave) as server:
        with pytest.raises(KeyboardInterrupt):
            run(backend, server, some_rows, output, concurrency=2)
        asked = len(server.requests)
        assert asked < 6
        assert len(beside(output, "journal").read_text().splitlines()) == 1 + asked
        server.behave = answer_well
        run(backend, server, some_rows, output)
        assert sorted(server.references()) == sorted(row["reference"] for row in some_rows)
    assert_all_written(some_rows, output)


def test_an_estimate_asks_nothing(backend, some_rows, tmp_path, capfd):
    with serve() as server:
        limits = RunLimits(concurrency=2, requests_per_minute=2.0)
        assert (
            annotate_file(some_rows, connect(backend, server), tmp_path / "c.jsonl", limits=limits, only_estimate=True)
            is None
        )
        assert not server.requests
    assert "no prices given, about 3 min" in capfd.readouterr().err


def test_keys_have_to_be_there_and_stay_out_of_urls(monkeypatch):
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for spec, variable in (("openai:m", "OPENAI_API_KEY"), ("gemini:m", "GEMINI_API_KEY")):
        with pytest.raises(DataError, match=variable):
            get_annotator(spec)
    for url in ("http://me:pw@host/v1", "http://host/v1?key=abc", "host/v1"):
        with pytest.raises(DataError, match="base URL"):
            get_annotator("openai:m", base_url=url)


def test_another_server_never_gets_the_owners_key(backend, monkeypatch, some_rows, tmp_path):
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    with serve() as server:
        annotator = get_annotator(f"{backend}:m", base_url=f"{server.url}/v1")
        annotate_file(some_rows[:1], annotator, tmp_path / "cot.jsonl")
    assert not any(KEY in value for value in server.requests[0].headers.values())
