"""What training found out about a stage is read as it was written, or refused."""

import json

import pytest

from cascade.record import FILE, Record, load_record
from stages import InputError


def test_a_record_is_read_as_it_was_written(tmp_path):
    assert load_record(tmp_path) == Record()
    given = Record(["zero", "ä"], [3, 0], "0f" * 32, "a1" * 32)
    given.save(tmp_path)
    assert load_record(tmp_path) == given
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        json.dumps({"classes": "ab"}),
        json.dumps({"classes": ["a", "a"]}),
        json.dumps({"classes": [1, 2]}),
        json.dumps({"counts": [-1]}),
        json.dumps({"counts": [True]}),
        json.dumps({"counts": [1.5]}),
        json.dumps({"images": None}),
        json.dumps({"previous": 7}),
        json.dumps({"other": 7}),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match="is damaged: it is no record of a training"):
        load_record(tmp_path)
