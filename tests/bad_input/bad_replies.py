"""What an annotator may answer: each through its real client, from a server on loopback."""

import json

from annotation_servers import Action, ChatServer
from kinds import Kind, Place

CORRECTION = "VERDICT: wrong\nKIND: {kind}\nMARKED: I see [[a box]].\nCORRECTED: {text}"
GOOD = "I see several things and I hear the drum hum all along. So the target is the drum."


def asked(place: Place, protocol: str, words: str, action: Action) -> list[str]:
    """A command that asks about one row, once."""
    server = ChatServer(lambda request, number: action)
    place.kept.append(server)
    url = server.url + "/v1" * (protocol == "openai")
    rows = place.rows({})
    known = {"ROWS": str(rows), "PLAIN": str(place.write("plain.jsonl", rows.read_bytes()))}
    command = [known.get(word, word) for word in words.split()]
    command += ["--annotator", f"{protocol}:some", "--base-url", url, "--output", str(place.root / "cot.jsonl")]
    return [*command, "--max-attempts", "1", "--max-retries", "0", "--timeout", "20"]


def reply(name: str, action: Action, *named: str, protocol: str = "openai", words: str = "annotate ROWS") -> Kind:
    return Kind(name, lambda place: asked(place, protocol, words, action), named)


def openai(**changes: object) -> Action:
    """A chat completion with other keys."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "too short"}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Action(raw=json.dumps({**body, **changes}))


def message(**changes: object) -> Action:
    return openai(choices=[{"index": 0, "message": {"role": "assistant", **changes}, "finish_reason": "stop"}])


def gemini(**changes: object) -> Action:
    candidate = {"content": {"role": "model", "parts": [{"text": "too short"}]}, "finishReason": "STOP"}
    return Action(raw=json.dumps({"candidates": [candidate], **changes}))


def correction(name: str, text: str, *named: str) -> Kind:
    return reply(f"a correction {name}", Action(text), *named, words="correct ROWS --plain PLAIN")


NOTHING = "cot.failed.jsonl: none of 1 rows"
KINDS = [
    # What is no answer of the protocol
    *(
        reply(f"{name}, from {protocol}", action, NOTHING, protocol=protocol)
        for protocol in ("openai", "gemini")
        for name, action in {
            "a web page": Action(raw="<html>busy</html>"),
            "a web page that says so": Action(raw="<html>busy</html>", headers={"Content-Type": "text/html"}),
            "nothing": Action(raw=""),
            "half of an object": Action(raw='{"choices": [{"mess'),
            "a list": Action(raw="[]"),
            "a number": Action(raw="7"),
            "other keys": Action(raw='{"answer": 42}'),
            "an empty text": Action(""),
            "a text that was cut off": Action("I see a thing and it", finish="length"),
            "a refusal": Action("I'm sorry, but I can't listen to audio. So the target is the drum."),
            "another class": Action("I see a boat and I hear it all along. So the target is the boat."),
            "its own instructions": Action(f"I was told that the answer is the drum. {GOOD}"),
            "a text without end": Action("I see a drum. " * 200 + GOOD),
            "a request that is not taken": Action("too many pictures", status=400),
        }.items()
    ),
    # Keys that hold something else
    reply("no choices", openai(choices=[]), NOTHING),
    reply("choices that are a text", openai(choices="none"), NOTHING),
    reply("a choice of nothing", openai(choices=[None]), NOTHING),
    reply("a message that is a text", openai(choices=[{"message": "x", "finish_reason": "stop"}]), NOTHING),
    reply("a content of parts", message(content=[{"type": "text", "text": GOOD}]), NOTHING),
    reply("a content that is a number", message(content=7), NOTHING),
    reply("a refusal of its own key", message(content=None, refusal="no"), NOTHING, "a refusal"),
    *(
        reply(
            f"tokens that are {value!r}", openai(usage={"prompt_tokens": value, "completion_tokens": value}), NOTHING
        )
        for value in ("many", [1], -5, 1.5)
    ),
    reply("usage that is a text", openai(usage="much"), NOTHING),
    reply("no candidates", gemini(candidates=[]), NOTHING, protocol="gemini"),
    reply("a candidate of nothing", gemini(candidates=[{}]), NOTHING, protocol="gemini"),
    reply("candidates that are a text", gemini(candidates="none"), NOTHING, protocol="gemini"),
    reply(
        "a blocked prompt",
        gemini(candidates=[], promptFeedback={"blockReason": "SAFETY"}),
        NOTHING,
        "SAFETY",
        protocol="gemini",
    ),
    reply(
        "gemini's tokens that are a text", gemini(usageMetadata={"promptTokenCount": "x"}), NOTHING, protocol="gemini"
    ),
    # What no row can have an answer after
    *(
        reply(f"status {status} from {protocol}", Action("go away", status=status), said, protocol=protocol)
        for protocol in ("openai", "gemini")
        for status, said in (
            (401, "go away"),
            (404, "go away"),
            (429, "no answer after 0"),
            (503, "no answer after 0"),
        )
    ),
    reply("half of an answer, then silence", Action("half of an answer", cut=True), "no answer after 0 retries"),
    # Corrections
    correction("without a verdict", "I do not know.", NOTHING, "`VERDICT"),
    correction("without a text", "VERDICT: wrong\nKIND: shallow_reasoning", NOTHING, "`CORRECTED:`"),
    correction("of an unknown kind", CORRECTION.format(kind="bad luck", text=GOOD), NOTHING, "`KIND:`"),
    correction("that says nothing", "VERDICT: wrong\nKIND:\nMARKED:\nCORRECTED:", NOTHING),
    correction("with headings alone", "VERDICT:\nKIND:\nMARKED:\nCORRECTED:", NOTHING, "`VERDICT"),
]
