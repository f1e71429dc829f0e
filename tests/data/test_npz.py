"""Arrays of an `.npz` file are believed no further than the file allows."""

import io
import zipfile

import numpy as np
import pytest

from cascade.data.named import open_images
from cascade.data.npz import read_npz
from stages import InputError


def test_a_header_is_believed_no_further_than_its_file(tmp_path):
    def images_of(count):
        header = io.BytesIO()
        fields = {"descr": "|u1", "fortran_order": False, "shape": (count, 32, 32)}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue() + b"abc"

    for count, message in ((10**9, "claims to hold uint8"), (10**30, "claims to hold")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("images.npy", images_of(count))
        with pytest.raises(InputError, match=message):
            open_images(str(tmp_path / "a.npz"), "all", 1)


def test_what_was_saved_is_read_and_nothing_else(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.array(3)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays, d=np.array([{}], dtype=object))
        found = read_npz(tmp_path / "a.npz", ["a", "b", "c", "none"])
        assert list(found) == ["a", "b", "c"]
        assert all(np.array_equal(found[name], arrays[name]) for name in found)
        with pytest.raises(InputError, match="cannot read"):
            read_npz(tmp_path / "a.npz", ["d"])  # it would be unpickled


def test_every_file_that_is_cut_short_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(100))
    whole = (tmp_path / "a.npz").read_bytes()
    for size in range(0, len(whole), 37):
        (tmp_path / "a.npz").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cannot read .*a\.npz: ."):
            read_npz(tmp_path / "a.npz", ["a"])
