"""A cascade's model card is what hubs index, and gives the figures of reports with conditions."""

import json

import pytest
import torch
from conftest import run_tool
from huggingface_hub import ModelCard
from small_stages import ANIMALS, animals
from torch import nn

from cascade import Cascade
from cascade.card import read_results, write_card
from cascade.percentiles import FILE
from cascade.web.model import open_model
from stages import InputError


class Means(nn.Module):
    """A feature net: means of an image's quarters."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def reports(digits, few_digits, tmp_path_factory):
    """What the tools wrote of the trained cascade of digits: likelihoods, and scores of samples."""
    out = tmp_path_factory.mktemp("reports")
    torch.jit.trace(Means(), torch.rand(2, 3, 16, 16)).save(out / "means.pt")
    data = ["--data", few_digits, "--split", "all", "--limit", 20]
    done = run_tool("likelihood", digits, *data, "--json", out / "bits.json", "--seed", 3)
    assert done.returncode == 0, done.stderr
    words = ["--num", 20, "--features", out / "means.pt", "--stages", "--json", out / "fid.json"]
    done = run_tool("evaluate", digits, *data, *words)
    assert done.returncode == 0, done.stderr
    return out / "bits.json", out / "fid.json"


def test_a_card_gives_figures_with_their_conditions(digits, reports, tmp_path):
    about = "An hour of one core."
    Cascade.load(digits).save_pretrained(tmp_path / "new", reports, "cc0-1.0", about)
    bits, scores = (json.loads(file.read_text()) for file in reports)
    card = ModelCard.load(tmp_path / "new" / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.model_name) == ("cc0-1.0", "csrflow", "new")
    assert data.pipeline_tag == "unconditional-image-generation" and "glow" in data.tags
    assert data.datasets == ["ylecun/mnist"] and "class-conditional" in data.tags
    found = {result.metric_type: result for result in data.eval_results}
    likelihood, distance = found["bits_per_dim"], found["frechet"]
    assert likelihood.metric_value == round(bits["bpd"], 4)
    assert likelihood.metric_name.startswith(
        "bits/dim (20 of 400 images at 16x16, K = 1, seed 3, classes"
    )
    assert (likelihood.dataset_name, likelihood.dataset_split) == ("few.npz", "all")
    assert distance.metric_value == round(scores["scores"][1]["frechet"], 4)  # of the last stage
    assert (
        "20 samples at temperature 1.0, seed 0, 20 of 400 images at 16x16" in distance.metric_name
    )
    assert f"\n\n{about}\n\n| stage |" in card.text and "went on from" not in card.text
    assert bits["statement"] in card.text and "fid" not in data.metrics
    assert str(tmp_path) not in card.content and str(reports[0].parent) not in card.content


def test_what_held_out_images_need_is_passed_on(digits, reports, tmp_path):
    """The page ranks images among them, where they are of these weights."""
    Cascade.load(digits).save_pretrained(tmp_path / "new", reports[::-1])
    bits = json.loads(reports[0].read_text())
    model = open_model(tmp_path / "new")
    assert model.usual.what == "20 images of few.npz (all)"
    assert model.usual.bpd.tolist() == bits["percentiles"] == sorted(bits["percentiles"])
    assert len(model.usual.bpd) == 101 and abs(model.usual.bpd.mean().item() - bits["bpd"]) < 0.05
    median = model.usual.bpd[50].item()
    assert model.usual.percentile(median + 1e-6) > 50 > model.usual.percentile(median - 1e-6)
    for i, other in enumerate(
        ({"label_mode": "given"}, {"split": "train"}, {"samples": 64}, {"told_sigma": 0.7})
    ):
        (tmp_path / "other.json").write_text(json.dumps(bits | other))
        Cascade.load(digits).save_pretrained(tmp_path / f"{i}", [tmp_path / "other.json"])
        assert open_model(tmp_path / f"{i}").usual is None
    file = tmp_path / "new" / FILE
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"weights": {}}))
    assert open_model(tmp_path / "new").usual is None
    for damaged in ({}, *({"percentiles": x} for x in ([], 3, [[1, 2]], [10**400], [None]))):
        file.write_text(json.dumps(damaged and kept | damaged))
        with pytest.raises(InputError, match=r"held_out\.json is damaged, fetch or write it again"):
            open_model(tmp_path / "new")


def test_weights_that_were_changed_are_others(digits, reports, tmp_path):
    """Unless it is in what they are computed in alone."""
    double = Cascade.load(digits, dtype="float64")
    double.save_pretrained(tmp_path / "double", reports)
    assert open_model(tmp_path / "double").usual is not None
    with torch.no_grad():
        for weights in double.parameters():
            weights += 0.1
    with pytest.raises(InputError, match="is of other weights than this cascade's"):
        double.save_pretrained(tmp_path / "changed", reports)
    assert [file.name for file in tmp_path.iterdir()] == ["double"]


def test_a_card_names_the_folder_and_nothing_else(digits, reports, tmp_path):
    """No model of the package, no broken line, no data set that a folder is called as."""
    report = json.loads(reports[0].read_text()) | {"data": "/home/me/cifar10"}
    (tmp_path / "report.json").write_text(json.dumps(report))
    folder = tmp_path / 'my "digits"'
    Cascade.load(digits).save_pretrained(folder, [tmp_path / "report.json"])
    text = (folder / "README.md").read_text()
    assert r'from_pretrained("path/to/my \"digits\"")' in text
    assert "csrflow sample 'path/to/my \"digits\"' --num" in text
    assert "uoft-cs" not in text and "cifar10, all" in text


def test_a_card_says_what_training_went_on_from(digits, tmp_path):
    cascade = Cascade.load(digits)
    cascade.stages[1].config.train.start = "runs/before/srf16"
    cascade.stages[1].record.start = "abc" * 20
    write_card(tmp_path, "digits", list(cascade.stages), [], "mit")
    card = (tmp_path / "README.md").read_text()
    assert "srf16 went on from `runs/before/srf16`, weights of SHA-256 abcabcabcabcabca:" in card


def test_a_card_without_reports_names_classes(tmp_path):
    cascade = Cascade.load(animals(tmp_path / "run"))
    write_card(tmp_path, "someone/animals", list(cascade.stages), [], "mit")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and "model-index" not in card.content
    assert f"4 classes: {', '.join(ANIMALS)}." in card.text and "# animals\n" in card.text
    (code,) = card.text.split("```python\n")[1:]
    assert 'from_pretrained("someone/animals")' in code.split("```")[0]


def test_what_is_no_report_of_these_weights_is_refused(digits, reports, tmp_path):
    cascade = Cascade.load(digits)
    other = tmp_path / "other.json"
    report = json.loads(reports[0].read_text())
    other.write_text(json.dumps(report | {"weights": report["weights"] | {"srf16": "0" * 64}}))
    with pytest.raises(InputError, match="is of other weights than this cascade's"):
        read_results(other, list(cascade.stages))
    for content in ("", "[]", "{}", "3", "[" * 100_000, '{"weights": {}}', '{"bpd": 1}'):
        other.write_text(content)
        with pytest.raises(InputError, match="is no report of samples or likelihoods"):
            read_results(other, list(cascade.stages))
