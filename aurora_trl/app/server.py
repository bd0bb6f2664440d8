"""The server of the page: what it shows, to whom, and what is left of it."""

import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .scripts import STYLE_FILE
from .uploads import Limits

LOOPBACK = "127.0.0.1"
_HEAD = '<div class="head-line"><h1>aurora</h1><span>reasons about a clip and draws what it means</span></div>'
EXTRA = "Gradio is not installed; `pip install 'aurora-trl[app]'` installs what the page needs"


@dataclass(frozen=True)
class AppSettings:
    """
    What `aurora app` shows.

    Args:
        models (`Sequence[str]`): one or two checkpoints, to be asked.
        answers (`str`, *optional*): folder with evaluations, to be looked through.
        data (`str`, *optional*): the dataset that was evaluated on; `data` beside the evaluations by default.
        dataset_format, subset (`str`, *optional*): of the dataset.
        phases (`Sequence[str]`, *optional*): evaluations to show, in order; all by default.
        world (`str`, *optional*): a synthetic world, for clips to try; the one beside the checkpoint by default.
        limits (`Limits`, *optional*): of uploads.
        max_new_tokens (`int`, *optional*): longest answer, in tokens.
        device (`str`, *optional*): for the checkpoints; a GPU where there is one by default.
    """

    models: Sequence[str] = ()
    answers: str | None = None
    data: str | None = None
    dataset_format: str | None = None
    subset: str | None = None
    phases: Sequence[str] = ()
    world: str | None = None
    limits: Limits = field(default_factory=Limits)
    max_new_tokens: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.models and self.answers is None:
            raise ValueError("name a checkpoint to ask, or `--answers` with the folder of a chain's evaluations")
        if len(self.models) > 2:
            raise ValueError(f"{len(self.models)} checkpoints are named; at most two stand side by side")


class App:
    """
    The page and its server. Use as a context manager: the files of its users go at the end.

    Args:
        settings (`AppSettings`): what to show.

    Raises:
        `DataError`: where Gradio is not installed, or a checkpoint or an evaluation can not be read.
    """

    def __init__(self, settings: AppSettings):
        self.settings = settings
        self._page: Any = None
        self._ended = threading.Event()
        self._former_handler: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="aurora-app-")
        # Before Gradio looks: its uploads go where ours end them, nobody is told that it was started, and no browser
        # keeps what was asked.
        os.environ["GRADIO_TEMP_DIR"] = self._folder.name
        os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
        try:
            self.blocks = self._build()
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> "App":
        # Whoever ends a server with a signal wants its files to go, too. Only the main thread can see to that.
        if threading.current_thread() is threading.main_thread():
            self._former_handler = signal.signal(signal.SIGTERM, lambda *_: self._ended.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._page is not None:
            self._page.stop_all()
        self.blocks.close(verbose=False)
        self._folder.cleanup()
        if self._former_handler is not None:
            signal.signal(signal.SIGTERM, self._former_handler)

    @property
    def folder(self) -> Path:
        """Where uploads and results are while they are used."""
        return Path(self._folder.name)

    def launch(self, host: str = LOOPBACK, port: int | None = None, *, browse: bool = False) -> str:
        """
        Begin to serve the page; returns at once.

        Args:
            host (`str`, *optional*, defaults to `"127.0.0.1"`): whose page it is: this machine's, or with `0.0.0.0`
                that of everybody who reaches it.
            port (`int`, *optional*): the first free one from 7860 on by default.
            browse (`bool`, *optional*, defaults to `False`): open it in a browser here.

        Returns:
            `str`: its address.
        """
        _, address, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{max(1, round(self.settings.limits.upload_mb))}mb",
            prevent_thread_lock=True,
            inbrowser=browse,
            quiet=True,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            share=False,
            theme=_theme(),
            css_paths=[STYLE_FILE],
        )
        return str(address)

    def wait(self) -> None:
        """Serve until somebody interrupts or ends the process."""
        with suppress(KeyboardInterrupt):
            self._ended.wait()

    def _build(self) -> Any:
        try:
            import gradio as gr
        except ImportError:
            raise DataError(EXTRA) from None
        from ..generation.pipeline import AuroraPipeline
        from .answers_page import build_answers_page
        from .ask_page import MAX_WAITING, AskPage, build_ask_page
        from .examples import find_world, load_examples
        from .session_files import SessionFiles

        settings = self.settings
        # First what is read in a moment: a checkpoint takes minutes.
        answers = None if settings.answers is None else self._read_answers(settings.answers)
        names = shown_names(settings.models)
        world = settings.world or (find_world(settings.models[0]) if settings.models else None)
        examples = load_examples(world) if world else ()
        pipelines = {
            name: AuroraPipeline.from_pretrained(model, device=settings.device) for name, model in names.items()
        }
        if pipelines:
            self._page = AskPage(
                pipelines,
                SessionFiles(self.folder),
                settings.limits,
                examples,
                settings.max_new_tokens,
            )
        with gr.Blocks(title="aurora", analytics_enabled=False) as blocks:
            gr.HTML(_HEAD)
            with gr.Tabs() if self._page and answers else nullcontext():
                if self._page is not None:
                    with gr.Tab("Ask") if answers else nullcontext():
                        build_ask_page(self._page)
                    blocks.unload(_closing(self._page))
                if answers is not None:
                    with gr.Tab("Answers") if self._page else nullcontext():
                        build_answers_page(answers)
        blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=4)
        return blocks

    def _read_answers(self, root: str) -> Any:
        from ..data import find_source
        from .answer_views import AnswerCards
        from .answers_page import AnswersPage
        from .evaluations import RowSource, find_evaluations, load_evaluations

        settings = self.settings
        folders = find_evaluations(root, settings.phases)
        data = settings.data or find_data(root)
        rows = None
        if data is not None:
            rows = RowSource(find_source(data, settings.dataset_format, settings.subset))
        world = data if data is not None and Path(data, "world.json").is_file() else None
        evaluations = load_evaluations(folders, world)
        return AnswersPage(evaluations, AnswerCards(evaluations, rows))


def find_data(root: str | Path) -> str | None:
    """The dataset of a chain, which lies in its output folder as `data`; None where there is none."""
    parents = (Path(root), *list(Path(root).resolve().parents)[:2])
    return next((str(folder / "data") for folder in parents if (folder / "data").is_dir()), None)


def _closing(page: Any) -> Any:
    import gradio as gr

    def close(request: gr.Request) -> None:
        page.close(str(request.session_hash))

    return close


def shown_names(models: Sequence[str]) -> dict[str, str]:
    """Checkpoints by the shortest end of their path that tells them apart."""
    for length in range(1, 10):
        names = {"/".join(Path(model).parts[-length:]): model for model in models}
        if len(names) == len(models):
            return names
    raise ValueError(f"{models[0]}: it is named twice; name two different checkpoints, or one")


def _theme() -> Any:
    import gradio as gr

    # The system's letters: nothing is fetched from elsewhere.
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
