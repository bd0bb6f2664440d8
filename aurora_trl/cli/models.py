"""The sub-commands that make, merge and publish checkpoints."""

import argparse
import re
import shutil
from pathlib import Path

from .common import AddCommand, claim, number, say, seed, whole


def add_model_commands(add: AddCommand) -> None:
    """
    Add the sub-commands to the parser.

    Args:
        add (`Callable`): adds a sub-command by name, function and text.
    """
    command = add("tiny-model", _tiny_model, "Write a checkpoint of the published classes with small random weights.")
    command.add_argument("output", metavar="DIR", help="new folder")
    command.add_argument("--seed", type=seed, default=0, help="of the weights (default: 0)")
    command.add_argument("--world", metavar="DIR", help="a synthetic world that teaches the towers to see and hear")
    command.add_argument("--tower-steps", type=whole(1), help="steps of that (default: 2000)")
    command.add_argument(
        "--box-steps", type=whole(1), help="steps in which its SAM learns to draw from boxes there (default: none)"
    )
    command.add_argument(
        "--without-language-model", action="store_true", help="a text encoder that reads the reference alone"
    )

    command = add("init", _init, "Build a model from a published policy and a published SAM, to start training from.")
    command.add_argument("policy", metavar="POLICY", help="folder or Hub repository: DAMO-NLP-SG/VideoLLaMA2.1-7B-AV")
    command.add_argument(
        "--mask-decoder", required=True, help="sam_vit_h_4b8939.pth, or a folder or repository of SAM 2 or 3"
    )
    command.add_argument("--output", required=True, metavar="DIR", help="new folder")
    command.add_argument(
        "--mask-image-size", type=whole(1), help="side of SAM's input in pixels (default: as published)"
    )
    command.add_argument(
        "--mask-memory",
        type=whole(1),
        metavar="N",
        help="let each frame look back at N in the memory of SAM 2 or 3, published: 7",
    )
    command.add_argument(
        "--mask-prompt-frames",
        default="all",
        help="with a memory, the frames that [SEG] prompts: all (default), first",
    )
    command.add_argument(
        "--mask-memory-gradients", action="store_true", help="let the loss of a frame reach the ones before it"
    )
    command.add_argument(
        "--mask-source",
        choices=["seg", "box", "both"],
        default="seg",
        help="box: the policy writes boxes and points, from which SAM draws; both: these beside [SEG] (default: seg, "
        "the state at [SEG])",
    )
    command.add_argument(
        "--mask-concepts",
        type=whole(1),
        metavar="N",
        help="let [SEG] name a concept to SAM 3's detector, and draw up to N instances of it in a frame",
    )
    command.add_argument("--num-frames", type=whole(1), default=10, help="frames of a clip (default: 10)")
    command.add_argument(
        "--audio-seconds",
        type=number(0, above=True),
        help="hear so much of a longer sound, pad a shorter one (default: as published)",
    )
    command.add_argument("--no-pad-audio", action="store_true", help="give no places to silence past a sound's end")
    command.add_argument(
        "--video-max-pixels", type=whole(1), help="of a frame, for Qwen and VideoLLaMA3 (default: as published)"
    )
    command.add_argument(
        "--no-audio-in-video", action="store_true", help="put sound behind the frames, not among them, for Qwen3-Omni"
    )
    command.add_argument("--dtype", default="auto", help="bfloat16 or float32 (default: the policy's own)")
    command.add_argument(
        "--instruction", help="around the place {reference}, such as '{reference}' alone for a text encoder"
    )
    command.add_argument("--seed", type=seed, default=0, help="of the projector's weights (default: 0)")

    command = add("merge", _merge, "Merge the adapter of a LoRA phase into its base.")
    command.add_argument("adapter", metavar="ADAPTER", help="a LoRA phase's output folder, or a Hub repository")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for the whole model")
    command.add_argument("--base", help="where the base is, if not where it was in training")
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the merged weights (default: the base's)"
    )
    command.add_argument("--max-shard-size", type=_shard_size, default="5GB", help="(default: 5GB)")

    command = add("push", _push, "Push a checkpoint with its processor and a model card to the Hub.")
    command.add_argument("folder", metavar="DIR", help="a phase's output folder")
    command.add_argument("repo_id", metavar="REPO_ID", help="namespace/name; made where it does not exist")
    command.add_argument("--evaluation", metavar="DIR", help="what `aurora evaluate` wrote, for the card's scores")
    command.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    command.add_argument("--revision", help="branch to push to (default: main)")
    command.add_argument(
        "--space",
        metavar="SPACE_ID",
        nargs="?",
        const="",
        help="make a Space, too, where people ask this checkpoint (default: of the same name)",
    )


def _shard_size(text: str) -> str:
    if re.fullmatch(r"[1-9]\d*(\.\d+)?[KMG]i?B", text, re.IGNORECASE) is None:
        raise argparse.ArgumentTypeError(f"must be a size such as 500MB or 5GB, got {text!r}")
    return text


def _tiny_model(arguments: argparse.Namespace) -> None:
    from ..tiny.text_encoder import create_tiny_text_checkpoint
    from ..tiny.videollama2 import create_tiny_checkpoint

    claim(Path(arguments.output))
    if arguments.without_language_model:
        if any(value is not None for value in (arguments.world, arguments.tower_steps, arguments.box_steps)):
            raise ValueError(
                "--without-language-model: there is nothing that learns; leave --world, --tower-steps and --box-steps "
                "out"
            )
        create_tiny_text_checkpoint(arguments.output, seed=arguments.seed)
        say(f"{arguments.output}: a tiny checkpoint without a language model")
        return
    settings = {}
    for name in ("tower_steps", "box_steps"):
        steps = getattr(arguments, name)
        if steps is not None:
            if arguments.world is None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"`{flag}` {steps}: it needs a world to learn from; add `--world`")
            settings[name] = steps
    create_tiny_checkpoint(arguments.output, seed=arguments.seed, world=arguments.world, **settings)
    say(f"{arguments.output}: a tiny checkpoint")


def _init(arguments: argparse.Namespace) -> None:
    from transformers import set_seed

    from ..models import ClipMemory, ConceptPrompts, load_published

    output = Path(arguments.output)
    claim(output)
    names = ("audio_seconds", "video_max_pixels")
    settings = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    settings |= {"pad_audio": False} if arguments.no_pad_audio else {}
    settings |= {"audio_in_video": False} if arguments.no_audio_in_video else {}
    memory = None
    if arguments.mask_memory is not None:
        memory = ClipMemory(arguments.mask_memory, arguments.mask_prompt_frames, arguments.mask_memory_gradients)
    elif arguments.mask_prompt_frames != "all" or arguments.mask_memory_gradients:
        raise ValueError("`--mask-prompt-frames` and `--mask-memory-gradients` need a memory; add `--mask-memory 7`")
    if memory is not None and arguments.mask_concepts is not None:
        raise ValueError("`--mask-concepts`: SAM 3's detector has no memory across frames; leave `--mask-memory` out")
    set_seed(arguments.seed)
    model, processor = load_published(
        arguments.policy,
        arguments.mask_decoder,
        mask_image_size=arguments.mask_image_size,
        mask_memory=memory,
        mask_concepts=None if arguments.mask_concepts is None else ConceptPrompts(arguments.mask_concepts),
        dtype=arguments.dtype,
        num_frames=arguments.num_frames,
        mask_source=arguments.mask_source,
        **({} if arguments.instruction is None else {"instruction": arguments.instruction}),
        **settings,
    )
    model.save_pretrained(output, max_shard_size="5GB")
    processor.save_pretrained(output)
    say(f"{output}: {model.num_parameters():,} parameters in {model.dtype}, ready for a recipe's model_name_or_path")


def _merge(arguments: argparse.Namespace) -> None:
    from ..models import AuroraProcessor
    from ..models.checkpoints.adapters import find_adapter, load_merged
    from ..models.checkpoints.hub import RECIPE_FILE
    from ..models.checkpoints.own_files import find_file

    output = Path(arguments.output)
    claim(output)
    if find_adapter(arguments.adapter) is None:
        raise ValueError(f"{arguments.adapter}: holds no adapter; `aurora merge` is for the folder of a LoRA phase")
    model = load_merged(arguments.adapter, base_model_name_or_path=arguments.base, dtype=arguments.dtype or "auto")
    model.save_pretrained(output, max_shard_size=arguments.max_shard_size)
    AuroraProcessor.from_pretrained(arguments.adapter).save_pretrained(output)
    recipe = find_file(arguments.adapter, RECIPE_FILE)
    if recipe is not None:  # the card of the whole model says from it what it was trained from and on
        shutil.copy(recipe, output / RECIPE_FILE)
    say(f"{output}: {arguments.adapter} merged into its base")


def _push(arguments: argparse.Namespace) -> None:
    from ..models.checkpoints.hub import push

    space = None if arguments.space is None else arguments.space or arguments.repo_id
    if space is not None:
        from ..app.space import check_space, push_space

        check_space(space)
    say(
        push(
            arguments.folder,
            arguments.repo_id,
            private=arguments.private,
            evaluation=arguments.evaluation,
            revision=arguments.revision,
        )
    )
    if space is not None:
        say(push_space(space, arguments.repo_id, private=arguments.private))
