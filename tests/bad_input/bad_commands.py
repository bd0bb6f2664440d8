"""Flags, output folders and journals."""

import json
from collections.abc import Callable
from pathlib import Path

from bad_checkpoints import segment
from kinds import Kind, Place

from aurora_trl import locks
from aurora_trl.cli import main
from aurora_trl.journal import beside

MODEL_FLAGS = ("--max-new-tokens", "2")


def flag(name: str, words: str, *named: str) -> Kind:
    """A command whose flags are wrong, before anything is read; `ROWS` are rows, `OUT` is a place for the output."""

    def command(place: Place) -> list[str]:
        known = {"ROWS": str(place.rows()), "OUT": str(place.root / "out"), "MODEL": str(place._checkpoint)}
        return [known.get(word, word) for word in words.split()]

    return Kind(name, command, named)


def output(name: str, words: str, make: Callable[[Place], Path], *named: str) -> Kind:
    """A command whose output can not be written, or stands there already."""

    def command(place: Place) -> list[str]:
        out = make(place)
        rows, world = place.rows(), f"synthetic:{place.world}"
        known = {"ROWS": str(rows), "OUT": str(out), "MODEL": str(place._checkpoint), "WORLD": world}
        return [known.get(word, word) for word in words.split()]

    return Kind(name, command, named)


def full(place: Place) -> Path:
    return place.write("full/precious.txt").parent


def inside_a_file(place: Place) -> Path:
    return place.write("file.txt") / "out"


def a_file(place: Place) -> Path:
    return place.write("file.txt")


EVALUATE = "evaluate MODEL --data ROWS --splits train --max-new-tokens 2 --output"
MINE = "mine MODEL ROWS --max-new-tokens 2 --output"
ANNOTATE = "annotate ROWS --annotator openai:m --base-url http://127.0.0.1:9/v1 --max-retries 0 --output"
CORRECT = "correct ROWS --annotator openai:m --base-url http://127.0.0.1:9/v1 --max-retries 0 --output"
ANSWERS = "annotate ROWS --annotator WORLD --output"


def journal(name: str, lines: list[object], *named: str, command: str = ANNOTATE) -> Kind:
    """A journal that an earlier run left, which was edited or belongs to another."""

    def make(place: Place) -> list[str]:
        written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        place.write("cot.journal.jsonl", "".join(f"{line}\n" for line in written))
        known = {"ROWS": str(place.rows()), "MODEL": str(place._checkpoint)}
        return [*(known.get(word, word) for word in command.split()), str(place.root / "cot.jsonl")]

    return Kind(name, make, named)


def corrected(name: str, where: Callable[[Place], Path], *named: str) -> Kind:
    """`aurora correct` with a second output that is wrong."""

    def command(place: Place) -> list[str]:
        hard, plain = place.rows(), place.write("plain.jsonl", place.rows().read_bytes())
        words = [str(hard) if word == "ROWS" else word for word in CORRECT.split()]
        return [*words, str(place.root / "out.jsonl"), "--plain", str(plain), "--corrected", str(where(place))]

    return Kind(name, command, named)


def targetless(place: Place) -> list[str]:
    plain = place.write("plain.jsonl", place.rows().read_bytes())
    words = [str(place.rows({}, {"target": ...})) if word == "ROWS" else word for word in CORRECT.split()]
    return [*words, str(place.root / "out.jsonl"), "--plain", str(plain)]


def edited(name: str, words: str, change: dict[str, object], *named: str) -> Kind:
    """The journal of a run that is through, in which one record was changed; `...` takes a key out."""

    def command(place: Place) -> list[str]:
        known = {"ROWS": str(place.world), "MODEL": str(place._checkpoint), "WORLD": f"synthetic:{place.world}"}
        argv = [*(known.get(word, word) for word in words.split()), str(place.root / "cot.jsonl")]
        main(argv)
        path = place.root / "cot.journal.jsonl"
        first, second, *others = path.read_text().splitlines()
        record = {key: value for key, value in {**json.loads(second), **change}.items() if value is not ...}
        path.write_text("\n".join([first, json.dumps(record), *others]) + "\n")
        return argv

    return Kind(name, command, named)


def held(place: Place) -> list[str]:
    """A journal that another process writes: here it is the machine's first."""
    journal = place.root / "cot.journal.jsonl"
    lock = locks.RunLock(beside(place.root / "cot.jsonl", "lock", ""), journal)
    lock.record |= {"process": 1, "start": locks._start_of(1)}
    place.write(lock.path.name, json.dumps(lock.record))
    return [str(place.rows()) if word == "ROWS" else word for word in [*ANNOTATE.split(), f"{place.root}/cot.jsonl"]]


NUMBERS = [
    flag(f"{words} {value}", f"{words} {value}", "--" + words.rsplit("--", 1)[1], value)
    for words, values in {
        f"{EVALUATE} OUT --batch-size": ("0", "-1", "x"),
        f"{EVALUATE} OUT --max-rows": ("0", "-3"),
        "evaluate MODEL --data ROWS --output OUT --max-new-tokens": ("0", "1.5"),
        "segment --model MODEL --reference x --output OUT --every-frame --fps": ("0", "nan"),
        "segment --model MODEL --reference x --output OUT --every-frame --start": ("-1",),
        "report OUT --phases sft --data ROWS --price-per-hour": ("-1", "nan"),
        f"{MINE} OUT --max-iou": ("nan", "7", "-1"),
        f"{MINE} OUT --seed": ("-1", "99999999999"),
        f"{ANNOTATE} OUT --concurrency": ("0",),
        f"{ANNOTATE} OUT --timeout": ("0", "nan", "inf"),
        f"{ANNOTATE} OUT --temperature": ("-1",),
        f"{ANNOTATE} OUT --max-output-tokens": ("0",),
        f"{ANNOTATE} OUT --requests-per-minute": ("0", "nan"),
        f"{ANNOTATE} OUT --max-cost": ("nan", "-1"),
        f"{CORRECT} OUT --plain ROWS --plain-per-reflective": ("-1", "nan"),
        f"{CORRECT} OUT --plain ROWS --max-rows": ("0",),
        "synth OUT --clips": ("0", "many"),
        "synth OUT --layout": ("ms3",),
        "synth OUT --image-size": ("0",),
        "synth OUT --seed": ("-1",),
        "check-data ROWS --workers": ("0", "-1"),
        "check-data ROWS --min-sound-seconds": ("nan", "-1"),
        "tiny-model OUT --tower-steps": ("0",),
        "tiny-model OUT --box-steps": ("0",),
        "init nothing/here --mask-decoder sam.pth --output OUT --num-frames": ("0",),
        "init nothing/here --mask-decoder sam.pth --output OUT --audio-seconds": ("0", "-2"),
    }.items()
    for value in values
]

KINDS = [
    *NUMBERS,
    flag("no command", "", "COMMAND"),
    flag("a command that is not known", "trian", "'trian'"),
    flag("a flag that is not known", "env --quickly", "--quickly"),
    flag("a flag that is missing", "segment --reference x --output OUT", "--model"),
    flag("no clip", "segment --model MODEL --reference x --output OUT", "--video", "--frames"),
    flag(
        "no such video", "segment --model MODEL --reference x --output OUT --video gone.mp4", "gone.mp4: no such file"
    ),
    Kind("an empty reference", lambda p: [*segment(p, p.model()), "--reference", " "], ("reference is empty",)),
    Kind("a device that is none", lambda p: [*segment(p, p.model()), "--device", "gpu9"], ("'gpu9'",)),
    flag("a protocol that is not known", f"{EVALUATE} OUT --protocol other", "'other'"),
    flag("a modality that is not known", f"{EVALUATE} OUT --swaps smell", "'smell'"),
    flag("a format that is not known", f"{EVALUATE} OUT --format other", "'other'"),
    flag("an annotator that is not known", "annotate ROWS --annotator other:m --output OUT", "'other:m'"),
    flag("a world that is none", "annotate ROWS --annotator synthetic:gone --output OUT", "gone/world.json"),
    flag("a key that is not set", "annotate ROWS --annotator openai:m --key-variable NO_KEY --output OUT", "NO_KEY"),
    flag("a URL that is none", "annotate ROWS --annotator openai:m --base-url ftp://x --output OUT", "base URL"),
    flag("an annotator's folder that is gone", "annotate ROWS --annotator qwen-omni:/gone --output OUT", "/gone: no"),
    flag("an annotator of another kind", "annotate ROWS --annotator qwen-omni:MODEL_ --output OUT", "MODEL_: no such"),
    Kind(
        "our checkpoint as an annotator",
        lambda p: ["annotate", str(p.rows()), "--annotator", f"qwen-omni:{p.model()}", "--output", f"{p.root}/o"],
        ("'aurora'", "Qwen2.5-Omni"),
    ),
    flag("nobody who answers", f"{ANNOTATE} OUT", "no answer after 0 retries", "Connection error"),
    flag("no such rows to correct", "correct gone.jsonl --annotator openai:m --plain ROWS --output OUT", "gone.jsonl"),
    flag("no such plain rows", "correct ROWS --annotator openai:m --plain gone.jsonl --output OUT", "gone.jsonl"),
    flag("a recipe that is not known", "recipes none OUT", "`none`", "tiny"),
    flag("a recipe without a folder", "recipes tiny", "a folder for it"),
    flag("a recipe whose data are its own", "recipes tiny OUT --data ROWS", "--data", "`tiny`"),
    # Output folders
    output("a recipe into a file", "recipes tiny OUT", a_file, "file.txt: is a file"),
    output("a recipe into a place inside a file", "recipes tiny OUT", inside_a_file, "file.txt: is a file"),
    *(
        output(f"{what} as the output of {words.split()[0]}", f"{words} OUT", make, said)
        for words in (EVALUATE, "tiny-model", "export ROWS --output", "synth --clips 5")
        for what, make, said in (
            ("a full folder", full, "full"),
            ("a file", a_file, "file.txt"),
            ("a place inside a file", inside_a_file, "file.txt"),
        )
    ),
    *(
        output(f"{what} as the output of {words.split()[0]}", f"{words} OUT", make, said)
        for words in (MINE, ANNOTATE)
        for what, make, said in (
            ("a folder", full, "full: a folder"),
            ("another's file", a_file, "file.txt: exists already"),
            ("a place inside a file", inside_a_file, "is a file"),
        )
    ),
    flag("nobody who corrects", "correct ROWS --plain ROWS --output OUT", "--annotator", "--answers"),
    flag("no such corrections", "correct ROWS --plain ROWS --answers gone.jsonl --output OUT", "gone.jsonl"),
    flag("paths that are none", "correct ROWS --plain ROWS --answers ROWS --paths wrong --output OUT", "'wrong'"),
    flag("a setting that is none", "run recipes/tiny/pipeline.yaml --set sft.max_steps", "sft.max_steps"),
    corrected("corrected rows into a folder", full, "full: a folder"),
    corrected("corrected rows into another's file", a_file, "file.txt: exists already"),
    corrected("corrected rows into the plain ones", lambda p: p.root / "plain.jsonl", "plain.jsonl: is read"),
    corrected("corrected rows into the output", lambda p: p.root / "out.jsonl", "are the same file"),
    Kind("hard rows without an answer", targetless, ("rows.jsonl", "'row_1'", "`target`")),
    # Journals
    journal("a journal that is no JSON", ["{"], "cot.journal.jsonl, line 1"),
    journal("a journal of another run", [{"settings": {"task": "other"}}], "cot.jsonl: belongs to a run with"),
    journal("a journal without settings", [{"id": "row_0"}], "cot.journal.jsonl", "no settings"),
    edited("a journal without tokens", ANSWERS, {"input_tokens": ...}, "journal.jsonl, line 2", "`input_tokens`"),
    edited("a journal of a row that is a number", ANSWERS, {"id": 7}, "journal.jsonl, line 2", "`id` is 7"),
    edited("a journal without an answer", f"{MINE[:-8]}--max-rows 1 --output", {"completion": ...}, "`completion`"),
    Kind("a journal that another process writes", held, ("cot", "process 1")),
]
