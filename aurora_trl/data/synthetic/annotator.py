"""The world as annotator: it writes, judges and corrects reasoning, since it knows the truth."""

import difflib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ... import prompts
from ...errors import DataError
from ..schema import Row
from .reasoning import KINDS, STYLES, Facts, kind_of, write_reasoning
from .references import Reference, sample_null_references, sample_references
from .scene import CLASSES, SceneObject, sample_scene
from .write import read_world

_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")


@dataclass(frozen=True)
class Judgement:
    """
    What is right and wrong about a reasoning text.

    Args:
        class_correct (`bool`): whether the class that it names last is the target's.
        wrong_sentences (`tuple` of `str`): those that are not true, in order.
    """

    class_correct: bool
    wrong_sentences: tuple[str, ...]


class SyntheticAnnotator:
    """
    Reasoning about the clips of a synthetic world.

    Args:
        root (`str` or `Path`): a folder that `aurora synth` wrote.

    Raises:
        `DataError`: where the folder holds no synthetic world.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._facts: dict[str, Facts] = {}
        names = {field.name for field in fields(Reference)}
        for clip in read_world(root)["clips"].values():
            objects = tuple(SceneObject.from_dict(values) for values in clip["objects"])
            for values in clip["references"]:
                reference = Reference(**{name: values[name] for name in names})
                self._facts[values["uid"]] = Facts(objects, reference)

    def facts(self, row: Row) -> Facts:
        """What is true of a row; `DataError` where the world does not hold it."""
        if row["id"] not in self._facts:
            raise DataError(f"row {row['id']!r}: not a reference of the synthetic world in {self.root}")
        return self._facts[row["id"]]

    def kind(self, row: Row) -> str:
        """What it takes to resolve the row's reference: `sight`, `hearing` or `both`."""
        return self.facts(row).reference.kind

    def reasoning(self, row: Row, *, style: str = "flexible", seed: int = 0, null_reasons: bool = False) -> str:
        """
        The true chain of thought.

        Args:
            row (`dict`): a dataset row of this world.
            style (`str`, *optional*, defaults to `"flexible"`): or `"fixed"`.
            seed (`int`, *optional*, defaults to 0): of order and wording.
            null_reasons (`bool`, *optional*, defaults to `False`): where nothing fits, say why.

        Returns:
            `str`: reasoning that ends with the class sentence; no `[SEG]`.
        """
        rng = np.random.default_rng([seed, zlib.crc32(row["id"].encode())])
        return write_reasoning(self.facts(row), style, rng, null_reasons)

    def judge(self, row: Row, text: str) -> Judgement:
        """
        What is right and wrong about a reasoning text.

        Args:
            row (`dict`): a dataset row of this world.
            text (`str`): any text; `It is [SEG].` is left aside.
        """
        facts = self.facts(row)
        true = {
            sentence
            for kind in KINDS
            for style in STYLES
            for null_reasons in (False, True)
            for sentence in facts.sentences(kind, style, null_reasons)
        }
        wrong = tuple(sentence for sentence in _split(text) if sentence not in true)
        named = prompts.extract_class(text)
        expected = "null" if facts.target is None else prompts.normalize_class(facts.target.class_name)
        return Judgement(named == expected, wrong)

    def correct(self, row: Row, text: str) -> str:
        """
        The text with as little changed as makes it true: true sentences stay, a wrong one gives way to the true one of
        its kind in the wording that is nearest, what can not be mended goes.

        Args:
            row (`dict`): a dataset row of this world.
            text (`str`): any text.

        Returns:
            `str`: true reasoning that ends with the class sentence.
        """
        facts = self.facts(row)
        style = "fixed" if re.search(r"\b(Seen|Heard|Inference|Answer):", text) else "flexible"
        wrong = set(self.judge(row, text).wrong_sentences)
        kept: dict[str, str] = {}
        for sentence in _split(text):
            kind = kind_of(sentence)
            if kind is None:
                continue
            if sentence in wrong:
                sentence = _nearest(sentence, facts.sentences(kind, style))
            kept[kind] = sentence
        needed = {"sight": ["seen"], "hearing": ["heard"], "both": ["seen", "heard"]}[facts.reference.kind]
        for kind in (*needed, "inference", "class"):
            kept.setdefault(kind, facts.sentences(kind, style)[0])
        first = [kind for kind in kept if kind in ("seen", "heard")]
        return " ".join(kept[kind] for kind in [*first, "inference", "class"])


def _split(text: str) -> list[str]:
    return [s.strip() for s in _SENTENCE.findall(prompts.strip_answer(text)) if s.strip()]


def _nearest(sentence: str, candidates: list[str]) -> str:
    return max(candidates, key=lambda candidate: difflib.SequenceMatcher(None, sentence, candidate).ratio())


def world_corpus() -> list[str]:
    """Texts with every word that the world, its annotator and the prompts use; a tiny tokenizer learns from them."""
    return [*_prompt_texts(), *_world_texts()]


def _prompt_texts() -> Iterator[str]:
    yield prompts.INSTRUCTION.format(reference="")
    # Behind a sentence, as an answer has them: a tokenizer takes the space before a word as part of it.
    yield from (f". {trigger}" for trigger in prompts.REFLECTION_TRIGGERS)
    yield from (before + prompts.ANSWER.replace(prompts.SEG_TOKEN, "") for before in ("", ". "))
    yield "".join(f" the target is {prompts.display_class(name)}." for name in (*CLASSES, "null"))


def _world_texts() -> Iterator[str]:
    for index in range(400):
        rng = np.random.default_rng([7, index])
        objects = sample_scene(rng, unseen=index % 4 == 0).objects
        for reference in [*sample_references(rng, objects, 4), *sample_null_references(rng, objects, 1)]:
            yield f"{reference.text}."
            facts = Facts(objects, reference)
            for style in STYLES:
                yield " ".join(" ".join(facts.sentences(kind, style)) for kind in KINDS)
