"""The policy's processor in a checkpoint: its tokenizer whole, its chat template with a place for the clip."""

from typing import Any

from ...errors import DataError
from ...prompts import build_prompt
from ...text_files import read_json
from ..policies.tokens import require_chat_tokenizer
from .own_files import find_file, one_line

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json")


def load_policy_processor(name: str, processor_class: Any, hub_kwargs: dict[str, Any]) -> Any:
    """The processor that the policy brings, with a tokenizer that can write a chat."""
    paths = {file: find_file(name, file, **hub_kwargs) for file in _TOKENIZER_FILES}
    for path in paths.values():
        if path is not None:
            read_json(path)
    if paths["tokenizer_config.json"] is None:
        # transformers makes a tokenizer without padding and end of turn then.
        raise DataError(f"{name}: tokenizer_config.json is missing; copy the folder again whole")
    try:
        policy_processor = processor_class.from_pretrained(name, **hub_kwargs)
    except Exception as error:  # whatever a wrong value leads to
        missing = [file for file in _TOKENIZER_FILES[1:3] if paths[file] is None]
        reason = f"{' and '.join(missing)} missing" if missing else one_line(error)
        raise DataError(f"{name}: its tokenizer can not be loaded ({reason}); copy the folder again whole") from error
    require_chat_tokenizer(policy_processor.tokenizer, name)
    return policy_processor


def check_template(name: str, processor: Any) -> None:
    """A template without a place for the clip would leave the model blind, and say nothing."""
    reference = "the object in question"
    turns = build_prompt({"reference": reference, "audio": "sound.wav"}, processor.instruction)
    blind = [{**turn, "content": [part for part in turn["content"] if part["type"] == "text"]} for turn in turns]
    try:
        text, without_clip = (
            processor.tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
            for shown in (turns, blind)
        )
    except Exception as error:  # jinja's, and those that a template raises itself
        raise DataError(f"{name}: its chat template can not be run ({one_line(error)}); restore it") from error
    if reference not in text or text == without_clip:
        raise DataError(f"{name}: its chat template leaves out the reference or the clip; restore what was saved")
