"""An answer as it is written: the text so far, again and again, and at the end the masks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from ..data.schema import Row
from ..errors import DataError
from ..generation.pipeline import AuroraPipeline, Segmentation

# All answers are given by one thread: a GPU's graphs of compiled steps belong to the thread that recorded them.
_ANSWERS = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer")


class _Interruption(StoppingCriteria):
    """Ends an answer after the token at which somebody asked for it."""

    def __init__(self, stopped: Event):
        self.stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.size(0),), self.stopped.is_set(), dtype=torch.bool, device=input_ids.device)


def stream_answer(
    pipeline: AuroraPipeline, reference: str, row: Row, stopped: Event, **generate_kwargs: Any
) -> Iterator[str | Segmentation]:
    """
    Ask about a clip.

    Args:
        pipeline (`AuroraPipeline`): the checkpoint.
        reference (`str`): the sentence that describes the object.
        row (`dict`): `video` or `frames`, and `audio`.
        stopped (`Event`): once it is set, the answer ends where it is.
        **generate_kwargs: for the pipeline, such as `max_new_tokens`.

    Yields:
        `str`: the text so far, each time that it has grown.
        `Segmentation`: at the end.

    Raises:
        `DataError`: where the pipeline does, or the GPU's memory does not suffice.
    """
    streamer = TextIteratorStreamer(pipeline.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    criteria = StoppingCriteriaList([_Interruption(stopped)])
    clip = {name: row.get(name) for name in ("video", "frames", "audio")}

    def answer() -> Segmentation:
        try:
            return pipeline(reference, **clip, streamer=streamer, stopping_criteria=criteria, **generate_kwargs)
        except BaseException:
            streamer.on_finalized_text("", stream_end=True)  # nobody waits for text that never comes
            raise

    outcome = _ANSWERS.submit(answer)
    text = ""
    try:
        for piece in streamer:
            if piece:
                text += piece
                yield text
    except GeneratorExit:  # nobody reads on
        stopped.set()
        wait([outcome])
        raise
    try:
        yield outcome.result()
    except torch.OutOfMemoryError:
        told = "the GPU's memory does not suffice for this clip; drop a shorter or smaller one"
        raise DataError(told) from None
