"""What every command does the same way, and how it prints what it found."""

import json
import math
import os
import subprocess
import sys
import warnings
from argparse import Namespace

import pytest
import torch
from conftest import ROOT
from small_stages import random_cascade

from cascade import InputError
from cascade.commands.shared import cli, display, display_scores, images
from cascade.commands.shared.figures_of_images import resolutions
from cascade.commands.shared.figures_of_measurements import draw_training
from cascade.config import load_config, save_config
from cascade.data.sources import ArrayImages, drawn
from stages.errors import InputWarning, ReportedElsewhere


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (InputError("two\nlines\x1b"), 2, "error: two\\nlines\\x1b\n"),
        (OSError("no room"), 2, "error: no room\n"),
        (ReportedElsewhere("the first process says it"), 2, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(capsys, error, code, printed):
    threads = torch.get_num_threads()

    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    torch.set_num_threads(threads)
    assert stopped.value.code == code and capsys.readouterr().err == printed


def test_a_fault_of_ours_is_not_hidden():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
    torch.set_num_threads(threads)


def test_a_remark_is_a_note_and_said_once(capsys):
    with cli.notes():
        for _ in range(3):
            warnings.warn("this does nothing", InputWarning, stacklevel=1)
    assert capsys.readouterr().out == "note: this does nothing\n"


def test_temperatures():
    assert cli.temperatures("0.8") == [0.8] and cli.temperatures("0,1e3") == [0.0, 1000.0]
    for text in ("", "a", "1,", "-0.1", "nan", "inf", "0.8 0.9"):
        with pytest.raises(InputError, match="finite numbers not below 0"):
            cli.temperatures(text)


def test_results_are_json_without_nan(tmp_path):
    cli.write_json({"a": [1.5, math.nan], "b": {"c": math.inf}}, tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.5, None], "b": {"c": None}}


def test_images_are_chosen_by_the_seed_and_drawn_once():
    source = ArrayImages(torch.zeros(50, 1, 4, 4, dtype=torch.uint8))
    some = drawn(source, 20)
    assert some.tolist() == sorted(set(some.tolist())) and len(some) == 20
    assert torch.equal(drawn(source, 20), some)
    assert torch.equal(drawn(source, None), torch.arange(50))
    assert set(images.choose(source, 99, 0).tolist()) == set(range(50))
    assert not torch.equal(images.choose(source, 9, 0), images.choose(source, 9, 1))


def test_a_table_of_figures_holds_every_cell(capsys):
    rows = [["glow8", "2.824"], ["srf16", "1.831"]]
    table = display.figures_table("bits/dim", ["stage", "own"], rows)
    assert table.row_count == 2 and [column.header for column in table.columns] == ["stage", "own"]
    cli.say(table)
    shown = capsys.readouterr().out
    assert all(cell in shown for row in rows for cell in row)


def test_clipping_is_said_by_stage():
    rates = {"values": {"glow8": 0.0123, "srf16": 0.0}, "samples": 0.25, "of": 64}
    line = display.clip_line(rates)
    assert line == (
        "clipped in samples: glow8 1.23%, srf16 0.00% of values; 25.0% of 64 samples had some"
    )


def test_scores_of_pairs_show_what_there_is(capsys):
    result = {
        "names": display_scores.OF_PAIRS, "images": 8, "data": "digits", "factor": 2,
        "samples_an_image": 4, "lpips_net": None, "calibration": [],
        "no_reference": {"niqe": {"file": "good.safetensors", "sha256": "0123456789abcdef"}},
        "scores": [{"temperature": 0.8, "by": "srf16", "psnr": 21.5, "ssim": 0.75}],
    }  # fmt: skip
    display_scores.show_pairs(result)
    shown = capsys.readouterr().out
    assert "21.500" in shown and "0.750" in shown and "8 images of digits, raised 2 times" in shown
    assert "LPIPS was not computed" in shown and "how sure" not in shown
    assert "NIQE by good.safetensors (SHA-256 0123456789ab)" in shown
    assert display_scores.number(None) == "" and display_scores.number(1 / 3) == "0.333"


def test_rows_of_sheets_are_named_by_stage_and_size():
    cascade = random_cascade("haar", 0)
    assert resolutions(cascade) == ["glow8, 8x8", "srf16, 16x16", "srf32, 32x32"]


def test_curves_of_training_are_the_log_s_own(tmp_path):
    for name, bpd in (("glow8", 3.5), ("srf16", 2.5)):
        (tmp_path / name).mkdir()
        config = load_config(ROOT / "configs" / "mnist5k" / f"{name}.yaml")
        save_config(config, tmp_path / name / "config.yaml")
        rows = [{"step": 20, "bpd": bpd + 1, "validation_bpd": bpd + 2}, {"step": 40, "bpd": bpd}]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    found = draw_training(Namespace(runs=[str(tmp_path)], out=str(tmp_path / "t.png")))
    assert [row["value"] for row in found] == [4.5, 3.5, 5.5, 3.5, 2.5, 4.5]
    assert [row["stage"] for row in found] == ["glow8"] * 3 + ["srf16"] * 3
    assert (tmp_path / "t.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["sweep.bmp", "sweep", "sweep.png.txt"])
def test_curves_have_formats_of_their_own(name):
    with pytest.raises(InputError, match="must end in .png, .pdf or .svg"):
        cli.check_plot(name)
    cli.check_plot("sweep.svg")
    cli.check_plot(None)


def test_nobody_reads_what_is_printed_and_the_result_is_written_all_the_same(digits, tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "tools/sample.py", digits, "--num", "2", "--out", tmp_path / "g.png"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "g.png").is_file()
