"""Other names of classes, for rewards that do not mind which of them a model uses."""

from collections.abc import Mapping, Sequence

from ..prompts import normalize_class

# Changes with the table: a score that was reached with another one is another score.
TABLE_NAME = "aurora-1"

# Each row is one thing. What a benchmark tells apart, such as man, woman, boy and girl, has no row in common.
TABLE: tuple[tuple[str, ...], ...] = (
    ("airplane", "aeroplane", "plane", "aircraft"),
    ("baby", "infant", "toddler"),
    ("bell", "church bell"),
    ("bus", "coach"),
    ("car", "automobile", "motorcar"),
    ("cell phone", "mobile phone", "cellphone", "smartphone", "mobile"),
    ("emergency car", "ambulance", "police car", "fire engine", "fire truck"),
    ("clock", "alarm clock"),
    ("drum", "drums", "drum kit", "drum set"),
    ("flute", "transverse flute"),
    ("guitar", "acoustic guitar", "electric guitar"),
    ("gun", "rifle", "machine gun", "pistol", "firearm"),
    ("hair dryer", "hairdryer", "blow dryer"),
    ("hand bell", "handbell"),
    ("harmonica", "mouth organ"),
    ("helicopter", "chopper"),
    ("keyboard", "computer keyboard"),
    ("lawn mower", "lawnmower", "mower"),
    ("motorcycle", "motorbike"),
    ("piano", "grand piano", "upright piano"),
    ("saxophone", "sax"),
    ("tabla", "tablas"),
    ("tractor", "farm tractor"),
    ("truck", "lorry"),
    ("vacuum cleaner", "vacuum", "hoover"),
    ("violin", "fiddle"),
)


def index_synonyms(table: Sequence[Sequence[str]] = TABLE) -> Mapping[str, int]:
    """
    Which row of a table each name stands in.

    Args:
        table (`Sequence[Sequence[str]]`, *optional*): rows of names for one thing each.

    Returns:
        `Mapping[str, int]`: by the names' normal form.

    Raises:
        `ValueError`: where a name stands in two rows.
    """
    rows: dict[str, int] = {}
    for number, names in enumerate(table):
        for name in names:
            if rows.setdefault(normalize_class(name), number) != number:
                raise ValueError(f"{name!r} stands in two rows of the synonyms; it can name one thing only")
    return rows
