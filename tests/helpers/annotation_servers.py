"""A small server on loopback that speaks OpenAI's chat completions and Gemini's generateContent."""

import base64
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REASONING = "I see several things side by side and I hear one of them all along."


@dataclass
class Request:
    """What came in: the text that was asked, the media in it, and the headers."""

    protocol: str
    prompt: str
    pictures: list[bytes]
    sounds: list[bytes]
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def reference(self) -> str:
        return re.findall(r'^Sentence: "(.*)"$', self.prompt, re.MULTILINE)[-1]

    @property
    def good_answer(self) -> str:
        """What the request asks for."""
        ending = re.findall(r"must be exactly: (.*)$", self.prompt, re.MULTILINE)[-1]
        return f"{REASONING} {ending}"


@dataclass
class Action:
    """
    What to answer: a text by the protocol, or with `status`, `raw`, `hang` or `cut` something else.

    `delay` and `hang` end early when the server closes; `cut` sends half an answer and closes the connection.
    """

    text: str = ""
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: str | None = None
    hang: bool = False
    cut: bool = False
    delay: float = 0.0


Behaviour = Callable[[Request, int], Action]


def answer_well(request: Request, number: int) -> Action:
    return Action(request.good_answer)


class ChatServer:
    """Counts what is asked and answers by `behave(request, number)`, `number` counted from 0 in order of arrival."""

    def __init__(self, behave: Behaviour = answer_well, port: int = 0):
        self.behave = behave
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def references(self) -> list[str]:
        with self._lock:
            return [request.reference for request in self.requests]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """vLLM's `/health` says that it is there, with nothing else."""
                self.send_response(200 if self.path == "/health" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = _read(self.path, body, {name.lower(): value for name, value in self.headers.items()})
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(request)
                self._send(request, server.behave(request, number))

            def _send(self, request: Request, action: Action) -> None:
                if server.closing.wait(3600 if action.hang else action.delay):
                    self.close_connection = True
                    return
                content = action.raw if action.raw is not None else _encode(request.protocol, action)
                data = content.encode()
                self.send_response(action.status)
                for name, value in {"Content-Type": "application/json", **action.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if action.cut else data)
                self.close_connection = action.cut

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _read(path: str, body: dict[str, Any], headers: dict[str, str]) -> Request:
    texts: list[str] = []
    pictures: list[bytes] = []
    sounds: list[bytes] = []
    if "chat/completions" in path:
        for part in body["messages"][0]["content"]:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image_url":
                pictures.append(base64.b64decode(part["image_url"]["url"].split(",", 1)[1]))
            else:
                sounds.append(base64.b64decode(part["input_audio"]["data"]))
        return Request("openai", "".join(texts), pictures, sounds, headers, body)
    for part in body["contents"][0]["parts"]:
        if "text" in part:
            texts.append(part["text"])
        else:
            data = part["inlineData"]
            # Gemini's client writes bytes in the URL-safe alphabet.
            content = base64.urlsafe_b64decode(data["data"])
            (pictures if data["mime_type"] == "image/jpeg" else sounds).append(content)
    return Request("gemini", "".join(texts), pictures, sounds, headers, body)


def _encode(protocol: str, action: Action) -> str:
    if action.status != 200:
        return json.dumps({"error": {"message": action.text or "no", "code": action.status, "status": "FAILED"}})
    if protocol == "openai":
        message = {"role": "assistant", "content": action.text}
        return json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": action.finish}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
            }
        )
    finish = {"stop": "STOP", "length": "MAX_TOKENS"}[action.finish]
    return json.dumps(
        {
            "candidates": [
                {"index": 0, "content": {"role": "model", "parts": [{"text": action.text}]}, "finishReason": finish}
            ],
            "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 60, "thoughtsTokenCount": 40},
        }
    )


@contextmanager
def serve(behave: Behaviour = answer_well):
    """A server for the length of a block."""
    server = ChatServer(behave)
    try:
        yield server
    finally:
        server.close()
