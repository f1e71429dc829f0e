"""What a table's file may say (`evaluation.tables`), and how its scores are kept and shown."""

import json

import pytest
from conftest import ROOT

from cascade.commands.tables import read_entries
from cascade.evaluation.tables import load_table
from stages import InputError

TABLE = ROOT / "configs" / "tables" / "mnist5k.yaml"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("limit=-3", "limit must be at least 1"),
        ("limit=0", "limit must be at least 1"),
        ("num=0", "num must be at least 1"),
        ("sizes=[7]", "sizes must be of those that the rows make"),
        ("sizes=[]", "sizes must name at least one size"),
        ("rows=[]", "rows must name at least one cascade"),
        ("classes=-1", "classes must not be below 0"),
        ("temperature=.nan", "temperature must be finite"),
    ],
)
def test_settings_that_cannot_work(setting, message):
    with pytest.raises(InputError, match=message):
        load_table(TABLE, [setting])


@pytest.mark.parametrize("text", ["[{}]", "{}", "[1]", "[[", "\xff", '[{"of": 1, "size": 8}]'])
def test_damaged_scores(tmp_path, text):
    (tmp_path / "table.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="holds no list of scores; --force scores again"):
        read_entries(tmp_path / "table.json")
    (tmp_path / "table.json").write_text(json.dumps([{"of": {}, "size": 8, "frechet": 1.0}]))
    assert len(read_entries(tmp_path / "table.json")) == 1
