"""What a table's file may say (`evaluation.tables`), and how its scores are kept and shown."""

import json
from types import SimpleNamespace

import pytest
from conftest import ROOT

from cascade.commands.shared.markdown_table import Scores, markdown
from cascade.commands.tables import read_entries
from cascade.evaluation.tables import load_table, parts
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
        ("seeds=[1,1]", "seeds must differ"),
        ("likelihood=-1", "likelihood must not be below 0"),
        ("failures=-1", "failures must not be below 0"),
        ("rows=[{name: Glow8, variant: a/b}]", "a variant is a word, got 'a/b'"),
        (
            "rows=[{name: Glow8, variant: x, train: [seed=1]}, {name: Glow16, variant: x}]",
            "variant x must have one list of train settings",
        ),
        (
            "claims=[{says: a, below: Glow8, above: Glow16, column: '8'}]",
            "a claim names 'Glow8', which is none of GlowCC8-SRFCC16; GlowCC8",
        ),
        (
            "claims=[{says: a, below: GlowCC8-SRFCC16, above: GlowCC8-SRFCC16, column: '9'}]",
            "a claim names '9', which is none of replaced; 8; 16; bits/dim; failed",
        ),
        ("claims=[{says: a}]", "claims.*is not set"),
        ("rows=[{name: Glow8, train: [seed=1]}]", "rows without a variant must have one list"),
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


def test_several_seeds_are_a_mean_and_a_deviation():
    rows = "rows=[{name: Glow8-SRF16, variant: slow, train: [train.lr=1e-5]}]"
    both = "below: 'Glow8-SRF16, slow', above: 'Glow8-SRF16, slow'"
    claims = f"claims=[{{says: a, {both}, column: '8'}}, {{says: b, {both}, column: replaced}}]"
    table = load_table(TABLE, [rows, claims, "seeds=[3,5,8]", "likelihood=9", "failures=9"])
    [row] = table.rows
    base, top = parts(row, 5)
    assert {"seed=5", "train.lr=1e-5", "train.steps=600"} < set(top.settings(table))
    assert (base.folder, top.folder) == ("glow8-slow-seed5", "srf16-slow-seed5")
    scores: list[Scores] = [{"8": 1.0, "16": 2.0, "bits/dim": 3.0, "failed": 0.5}]
    scores.append({"8": 3.0, "16": 2.0, "bits/dim": 4.0, "failed": 0.5})
    named = {"mode": "", "name": "f", "digest": "d", "origin": {"clean-fid": 0}}
    net = SimpleNamespace(labels={"frechet": "D"}, genuine=False, **named)
    scores[0]["images"] = scores[1]["images"] = 100
    text = markdown(table, {row.title: scores}, net)
    assert "beside 100 images of mnist5k" in text
    figures = "2.00 ± 1.41 | 2.00 ± 0.00 | 3.500 ± 0.707 | 0.500 ± 0.000 | 2 of 3"
    assert f"| Glow8-SRF16, slow |  | {figures} |\n" in text
    same = "2.00 ± 1.41; 2.00 ± 1.41 | +0.00 | +0.0 | cannot be told: the seeds' ranges meet"
    assert f"| a | Glow8-SRF16, slow; Glow8-SRF16, slow | 8 | {same} |\n" in text
    assert "| replaced |  |  |  | no figures |\n" in text
