"""One writer a folder."""

import os

import pytest

from cascade.utils.lock import Lock
from stages import InputError


def test_one_writer_a_folder(tmp_path):
    first = Lock(tmp_path / "stage")
    with pytest.raises(InputError, match=f"is being trained by process {os.getpid()} on"):
        Lock(tmp_path / "stage")
    first.release()
    Lock(tmp_path / "stage").release()
