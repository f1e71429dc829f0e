"""What training found out about a stage is read as it was written, or refused."""

import json

import pytest
from small_stages import stage_folder

from cascade.record import FILE, Record, load_record
from cascade.stage import load_stage
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


def test_a_record_names_no_more_classes_than_the_model_has(tmp_path):
    folder = stage_folder(tmp_path / "srf2x", "model.classes=2")
    for names in (["cat"], ["cat", "dog"]):
        Record(names).save(folder)
        assert load_stage(folder).class_names == [*names, "1"][:2]
    Record(["cat", "dog", "cow"]).save(folder)
    with pytest.raises(InputError, match=r"record\.json is damaged: it names 3 classes"):
        load_stage(folder)
