"""Files are written whole or not at all; JSON holds finite figures."""

import math
import os

import pytest

from cascade.utils.files import check_writable, finite, whole
from stages import InputError


def test_a_file_is_new_or_as_it_was(tmp_path):
    file = tmp_path / "deep" / "er" / "figures.json"
    with whole(file) as aside:
        aside.write_text("first")
        assert not file.exists() and aside.suffix == ".json"
    with pytest.raises(ZeroDivisionError), whole(file) as aside:
        aside.write_text("second, half wri")
        raise ZeroDivisionError
    assert file.read_text() == "first" and list(file.parent.iterdir()) == [file]
    with whole(file) as aside:
        aside.write_text("third")
    assert file.read_text() == "third" and list(file.parent.iterdir()) == [file]


def test_its_mode_is_what_the_user_s_mask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "a") as aside:
            aside.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_an_error_of_the_system_names_the_file_and_not_the_one_aside(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/taken/a.txt"):  # noqa: SIM117
        with whole(tmp_path / "taken" / "a.txt"):
            raise AssertionError("a file is no folder")


def test_asking_whether_a_file_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new" / "newer" / "a.csv")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "a.csv")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_what_json_does_not_know_is_none():
    given = {"a": math.nan, "b": [1.5, -math.inf, {"c": math.inf}], "d": "nan", "e": 3, "f": None}
    expected = {"a": None, "b": [1.5, None, {"c": None}], "d": "nan", "e": 3, "f": None}
    assert finite(given) == expected
