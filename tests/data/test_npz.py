"""Arrays of an `.npz` file are believed no further than the file allows."""

import io
import zipfile

import numpy as np
import pytest

from cascade.data.named import open_images
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
