"""The page that asks: a clip, a sentence, and what each checkpoint answers."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from ..errors import DataError
from ..generation.pipeline import AuroraPipeline, Segmentation
from .examples import Example
from .results import answer_html, examples_html, message_html, picture_html, result_html, write_result
from .scripts import CHOOSE_SCRIPT, PLAYER_SCRIPT
from .session_files import SessionFiles
from .streaming import stream_answer
from .uploads import Limits, ShownClip, load_clip, read_clip, shown_error

logger = logging.getLogger(__name__)

MAX_WAITING = 20
HINT = '<p class="hint">Drop a clip, write a sentence that describes an object in it, and ask.</p>'


@dataclass
class AskPage:
    """
    What the page's parts call.

    Args:
        pipelines (`Mapping[str, AuroraPipeline]`): one or two checkpoints by the name that is shown.
        files (`SessionFiles`): keeps uploads and results.
        limits (`Limits`): what may be dropped.
        examples (`Sequence[Example]`): clips to try.
        max_new_tokens (`int`, *optional*): longest answer, in tokens.
    """

    pipelines: Mapping[str, AuroraPipeline]
    files: SessionFiles
    limits: Limits
    examples: Sequence[Example] = ()
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        self._stops: dict[str, Event] = {}

    def look(self, clip: list[str] | None, sound: str | None, session: str) -> tuple[str, str]:
        """
        What was dropped: a message about it, and its picture, both as HTML.

        Args:
            clip (`list[str]`, *optional*): paths of a video or of pictures.
            sound (`str`, *optional*): path of a sound.
            session (`str`): whose.
        """
        self.files.hold(session, [*(clip or ()), *([sound] if sound else ())])
        if not clip:
            return "", HINT
        try:
            shown = self._load(clip, sound)
        except Exception as error:
            return message_html(told(error), is_error=True), HINT
        picture = self.files.new_folder(session, "seen") / "seen.png"
        shown.draw().save(picture)
        return message_html(self._describe(shown)), picture_html(picture, "What the model sees and hears")

    def ask(
        self, clip: list[str] | None, sound: str | None, reference: str, session: str
    ) -> Iterator[tuple[Any, ...]]:
        """
        Let each checkpoint answer, one after the other.

        Yields:
            `tuple`: a message, the picture of the clip, which goes when the answers show it, and the column of each
                checkpoint; again and again as they grow.
        """
        columns = [answer_html(name, "", "ready") for name in self.pipelines]
        stopped: Event | None = None
        try:
            if not reference.strip():
                raise DataError("write a sentence that describes the object first")
            shown = self._load(clip or [], sound)
            message = message_html(self._describe(shown))
            stopped = self._stops[session] = Event()
            columns = [answer_html(name, "", "waits") for name in self.pipelines]
            results: list[Segmentation] = []
            for number, (name, pipeline) in enumerate(self.pipelines.items()):
                for step in stream_answer(pipeline, reference, shown.row, stopped, max_new_tokens=self.max_new_tokens):
                    if isinstance(step, Segmentation):
                        results.append(step)
                        columns[number] = answer_html(name, step.reasoning, "stopped" if stopped.is_set() else "draws")
                    else:
                        columns[number] = answer_html(name, step, "writes")
                    yield message, gr.skip(), *columns
            if session not in self._stops:
                return
            folder = self.files.new_folder(session, "result")
            for number, (name, result) in enumerate(zip(self.pipelines, results, strict=True)):
                place = folder / str(number)
                place.mkdir()
                # Each has taken the frames that it takes.
                own = load_clip(shown.row, self.pipelines[name].processor.num_frames)
                below = result_html(result, own, write_result(result, own, place))
                state = "stopped" if stopped.is_set() and not result.has_seg else "done"
                columns[number] = answer_html(name, result.reasoning, state, below=below)
                yield message, "", *columns
        except Exception as error:
            yield message_html(told(error), is_error=True), gr.skip(), *columns
        finally:
            if stopped is not None and session not in self._stops:  # the page was closed meanwhile
                self.files.close(session)

    def stop(self, session: str) -> None:
        """End the answer of a session where it is."""
        if session in self._stops:
            self._stops[session].set()

    def stop_all(self) -> None:
        """End all answers where they are."""
        for stopped in list(self._stops.values()):
            stopped.set()

    def close(self, session: str) -> None:
        """The page was closed."""
        self.stop(session)
        self._stops.pop(session, None)
        self.files.close(session)

    def take_example(self, number: int, session: str) -> tuple[list[str], str | None, str]:
        """Put an example's files beside the uploads; their paths, the sound's, and the sentence."""
        example = self.examples[number]
        folder = self.files.new_folder(session, "example")
        copies = []
        for path in (*example.files, *([example.sound] if example.sound else ())):
            copies.append(folder / Path(path).name)
            copies[-1].write_bytes(Path(path).read_bytes())
        paths = [str(path) for path in copies]
        sound = paths.pop() if example.sound else None
        return paths, sound, example.reference

    def _describe(self, clip: ShownClip) -> str:
        rates = {name: pipe.processor.policy_processor.sampling_rate for name, pipe in self.pipelines.items()}
        deaf = [name for name, rate in rates.items() if rate is None]
        text = clip.describe()
        return f"{text}; {' and '.join(deaf)} can not hear it" if deaf and clip.waveform is not None else text

    def _load(self, clip: list[str], sound: str | None) -> ShownClip:
        row = read_clip(clip, sound, self.limits)
        first = next(iter(self.pipelines.values()))
        return load_clip(row, first.processor.num_frames)


def told(error: Exception) -> str:
    """An error in one line for somebody who does not run the server; what is no fault of theirs goes to its log."""
    if isinstance(error, ValueError):  # `DataError` is one
        return shown_error(error, {})
    logger.exception("an answer failed")
    return f"the answer failed ({type(error).__name__}); the log of the server says why"


def build_ask_page(page: AskPage) -> None:
    """Lay the page out inside the current `gr.Blocks`, and connect it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            clip = gr.File(label="Video, picture or frames", file_count="multiple", height=150, elem_id="clip")
            sound = gr.File(label="Sound, if another file", height=110, elem_id="sound")
            reference = gr.Textbox(
                label="Which object?", placeholder="the object that starts to sound first", elem_id="reference"
            )
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                stop = gr.Button("Stop", elem_id="stop")
            message = gr.HTML(elem_id="message")
            if page.examples:
                examples = gr.HTML(
                    examples_html(page.examples),
                    js_on_load=CHOOSE_SCRIPT,
                    elem_id="examples",
                )
        with gr.Column(scale=5):
            seen = gr.HTML(HINT, elem_id="seen")
            with gr.Row(equal_height=False):
                columns = [
                    gr.HTML(
                        answer_html(name, "", "ready"),
                        js_on_load=PLAYER_SCRIPT,
                        elem_id=f"answer-{number}",
                    )
                    for number, name in enumerate(page.pipelines)
                ]
    private: dict[str, Any] = {"api_visibility": "private"}

    def look(files: list[str] | None, sound_file: str | None, request: gr.Request) -> tuple[str, str]:
        return page.look(_paths(files), sound_file and str(sound_file), str(request.session_hash))

    def answer(
        files: list[str] | None, sound_file: str | None, sentence: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        yield from page.ask(_paths(files), sound_file and str(sound_file), sentence, str(request.session_hash))

    for dropped in (clip, sound):
        dropped.change(look, [clip, sound], [message, seen], show_progress="hidden", **private)
    # One at a time: the checkpoints share a device. Whoever comes later sees their place in the queue.
    turn: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answer", "show_progress": "minimal", **private}
    for start in (ask.click, reference.submit):
        start(answer, [clip, sound, reference], [message, seen, *columns], **turn)
    stop.click(_of_session(page.stop), queue=False, **private)
    if page.examples:

        def take(event: gr.EventData, request: gr.Request) -> tuple[list[str], str | None, str]:
            return page.take_example(int(event.index), str(request.session_hash))

        examples.click(take, outputs=[clip, sound, reference], show_progress="hidden", **private)


def _paths(files: list[str] | None) -> list[str]:
    return [str(path) for path in files or ()]


def _of_session(action: Callable[[str], None]) -> Callable[[gr.Request], None]:
    def run(request: gr.Request) -> None:
        action(str(request.session_hash))

    return run
