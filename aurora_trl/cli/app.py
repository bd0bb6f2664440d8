"""The sub-command that opens a page in the browser: `aurora app`."""

import argparse

from .common import LIMIT_HELP, AddCommand, add_format, number, say, whole


def add_app_commands(add: AddCommand) -> None:
    """
    Add the sub-command to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add("app", _app, "Open a page to ask checkpoints about clips, or to look through evaluations.")
    command.add_argument(
        "models", metavar="CHECKPOINT", nargs="*", help="a phase's output folder or a Hub repository; two are compared"
    )
    command.add_argument("--answers", metavar="ROOT", help="a chain's output folder, or that of one `aurora evaluate`")
    command.add_argument("--phases", nargs="+", default=[], help="evaluations to show, in order (default: all)")
    command.add_argument("--data", help="the dataset that was evaluated on (default: `data` beside the evaluations)")
    add_format(command)
    command.add_argument(
        "--world", metavar="DIR", help="a synthetic world with clips to try (default: `data` beside the checkpoint)"
    )
    command.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine alone; 0.0.0.0: all)")
    command.add_argument("--port", type=whole(1, 65535), help="(default: the first free one from 7860 on)")
    command.add_argument("--open", action="store_true", help="open it in the browser of this machine")
    command.add_argument("--max-upload-mb", type=number(0, above=True), help="of a clip's files (default: 200)")
    command.add_argument("--max-seconds", type=number(0, above=True), help="of a video or a sound (default: 120)")
    command.add_argument("--max-new-tokens", type=whole(1), help=LIMIT_HELP)
    command.add_argument("--device", help="(default: a GPU where there is one)")


# What each is about: evaluations to look through, or checkpoints to ask.
_ANSWER_FLAGS = ("phases", "data", "format", "subset")
_MODEL_FLAGS = ("world", "max_new_tokens", "device", "max_upload_mb", "max_seconds")


def _app(arguments: argparse.Namespace) -> None:
    from ..app.server import App, AppSettings
    from ..app.uploads import Limits

    for names, there, what in (
        (_ANSWER_FLAGS, arguments.answers, "is about evaluations to look through: add --answers"),
        (_MODEL_FLAGS, arguments.models, "is about a checkpoint to ask: name one"),
    ):
        given = next((name for name in names if getattr(arguments, name)), None)
        if given is not None and not there:
            raise ValueError(f"--{given.replace('_', '-')} {what}, or leave it out")
    limits = {"upload_mb": arguments.max_upload_mb, "seconds": arguments.max_seconds}
    settings = AppSettings(
        models=arguments.models,
        answers=arguments.answers,
        data=arguments.data,
        dataset_format=arguments.format,
        subset=arguments.subset,
        phases=arguments.phases,
        world=arguments.world,
        limits=Limits(**{name: value for name, value in limits.items() if value is not None}),
        max_new_tokens=arguments.max_new_tokens,
        device=arguments.device,
    )
    with App(settings) as app:
        say(f"{app.launch(arguments.host, arguments.port, browse=arguments.open)}: Ctrl-C ends it")
        app.wait()
