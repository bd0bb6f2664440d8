"""Values inside large JSON files are those that a plain reader gives, wherever a part that is held ends."""

import json

import pytest

from aurora_trl.data import DataError, json_values
from aurora_trl.data.json_values import name_spans, names_values, read_named, scan_json

CONTENT = {
    "a": [1, 22, -3.5e7, None, True, {"x": 'é"]\\'}],
    "ü": {"k": [[1, 2], [3]], "e": [], "f": {}},
    "empty": [],
    "z": 12345,
}
EXPECTED = {
    **{("a", i): value for i, value in enumerate(CONTENT["a"])},
    **{("ü", key): value for key, value in CONTENT["ü"].items()},
    ("z",): 12345,
}


def opens(keys):
    return len(keys) < 2


@pytest.fixture(params=[1, 2, 3, 7, 50, 4 << 20])
def in_parts(request, monkeypatch):
    monkeypatch.setattr(json_values, "_CHUNK_BYTES", request.param)


@pytest.mark.parametrize("style", [{}, {"indent": 3}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_values_and_places(style, in_parts, tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps(CONTENT, **style), encoding="utf-8")
    found = list(scan_json(file, opens))
    assert {keys: value for keys, value, _ in found} == EXPECTED
    for _, value, span in found:
        assert read_named(name_spans(file, span)) == [value]
    assert read_named(name_spans(file, found[0][2], found[-1][2])) == [1, 12345]
    assert [keys for keys, _, _ in scan_json(file, lambda keys: False)] == [()]


def test_a_byte_order_mark_is_no_value(tmp_path):
    file = tmp_path / "values.json"
    file.write_text('{"a": 1}', encoding="utf-8-sig")
    assert [(keys, value) for keys, value, _ in scan_json(file, opens)] == [(("a",), 1)]


def test_a_file_that_is_cut_anywhere_is_named(in_parts, tmp_path):
    whole = json.dumps(CONTENT, ensure_ascii=False).encode()
    file = tmp_path / "values.json"
    for size in range(0, len(whole), 3):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"values.json: not valid JSON \("):
            list(scan_json(file, opens))


@pytest.mark.parametrize("text", ["[1,]", '{"a" 1}', "{1:2}", "[1] 2", '{"a":1,}', "[1 2]", "nul", "[" * 100_000])
def test_what_is_no_json_is_named(text, tmp_path):
    file = tmp_path / "values.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"values.json: not valid JSON \(.*\); restore the file"):
        list(scan_json(file, opens))


def test_names():
    assert name_spans("a/b.json", "3-7:ab12cd", "9-12:00ff00") == "a/b.json#json=3-7:ab12cd,9-12:00ff00"
    assert names_values("a/b.json#json=3-7")
    assert not names_values("clip.mp4#t=1.5")
    with pytest.raises(DataError, match="gone.json: can not be read"):
        read_named("gone.json#json=3-7")
    with pytest.raises(DataError, match="no value at x"):
        read_named(f"{__file__}#json=x")


def test_a_value_that_is_another_now_is_named(tmp_path):
    file = tmp_path / "values.json"
    file.write_text('{"a": [1, 2], "b": [3, 4]}')
    places = {keys[0]: place for keys, _, place in scan_json(file, lambda keys: not keys)}
    earlier = {key: place.partition(":")[0] for key, place in places.items()}
    file.write_text('{"b": [3, 4], "a": [1, 2]}')
    with pytest.raises(
        DataError, match=r"values.json: no value at .*: the file has changed since it was loaded; load"
    ):
        read_named(name_spans(file, places["a"]))
    # Names of earlier versions say nothing of the value.
    assert earlier["a"] == "6-12"
    assert read_named(name_spans(file, earlier["a"])) == [[3, 4]]
