"""Files of every image's figures hold them to the last bit."""

import csv
import math

import numpy as np
import pytest
import torch
from small_stages import report_of

from cascade.data.sources import ArrayImages
from cascade.evaluation.records import Part, Records, read_part
from cascade.sample_checks import SampleCheck


def records(labelled: bool) -> Records:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8)
    source = ArrayImages(pixels, torch.arange(9) % 3 if labelled else None)
    nats = 1e3 * torch.randn(4, 2).double()
    posterior = torch.randn(4, 3).double().log_softmax(1) if labelled else None
    report = report_of(nats, [4, 12], posterior)
    return Records.of(report, source, torch.tensor([7, 0, 3, 8]))


@pytest.mark.parametrize("labelled", [True, False])
def test_a_table_holds_every_figure(tmp_path, labelled):
    given = records(labelled)
    given.names[1] = "of\udcff bytes, with a comma"  # a name of a file may be any bytes
    given.write_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "file", "label", "nats_base", "nats_top", "nats", "bpd"]
    assert [int(row["index"]) for row in rows] == [7, 0, 3, 8]
    assert [row["label"] for row in rows] == (["1", "0", "0", "2"] if labelled else [""] * 4)
    assert rows[1]["file"] == r"of\udcff bytes, with a comma"
    for row, nats in zip(rows, given.report.nats.tolist(), strict=True):
        assert [float(row["nats_base"]), float(row["nats_top"])] == nats
        assert float(row["nats"]) == sum(nats)
        assert float(row["bpd"]) == pytest.approx(-sum(nats) / (16 * math.log(2)), rel=1e-14)


@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_hold_every_figure(tmp_path, labelled):
    given = records(labelled)
    given.files = {"PNG": torch.rand(4).double()}
    drawn = SampleCheck(["base", "top"], [{"mean": 0.1}], torch.rand(5, 2).double())
    Part(given, {"images": 4}, (1, 1), drawn).write_npz(tmp_path / "t.npz")
    again = read_part(tmp_path / "t.npz")
    assert torch.equal(again.drawn.clipped, drawn.clipped) and again.provenance == {"images": 4}
    assert torch.equal(again.records.files["PNG"], given.files["PNG"])
    assert again.records.report.statement == given.report.statement
    assert again.records.report.stages == given.report.stages
    assert again.records.names == given.names
    with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
        assert ("label" in arrays, "posterior" in arrays) == (labelled, labelled)
        assert arrays["index"].tolist() == [7, 0, 3, 8] and list(arrays["stages"]) == [
            "base",
            "top",
        ]
        assert np.array_equal(arrays["nats"], given.report.nats.numpy())
        assert np.array_equal(arrays["bpd"], given.report.image_bpd.numpy())
        if labelled:
            assert np.array_equal(arrays["posterior"], given.report.posterior.numpy())
            assert arrays["label"].tolist() == [1, 0, 0, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["t.npz"]
