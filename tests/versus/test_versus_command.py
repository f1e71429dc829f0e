"""tools/versus.py from the first step to the verdict, resumed and refused (`versus.comparison`)."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, run_tool

from cascade.versus import training
from cascade.versus.comparison import matches_of
from cascade.versus.enlarging import enlarge
from cascade.versus.settings import load_versus, stage_configs
from stages import InputError

TINY = [
    *("model.levels=1", "model.steps=1", "model.width=8", "model.classes=0", "data.size=16"),
    *("model.encoder=residual", "model.encoder_features=8", "model.encoder_blocks=1"),
    *("train.steps=4", "train.batch_size=4", "train.init_images=16", "train.validate_images=8"),
    "model.conditional_prior=false",
]


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Two files of features: a fresh classifier's of two widths."""
    from cascade.classifier.resnet import feature_net
    from cascade.classifier.training import Classifier

    folder, files = tmp_path_factory.mktemp("nets"), []
    for width in (2, 3):
        torch.manual_seed(width)
        classifier = Classifier(feature_net(1, width), torch.nn.Identity(), torch.device("cpu"))
        files.append(folder / f"{width}.pt")
        classifier.save(files[-1])
    return files


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, few_digits):
    """A comparison's file, of digits at four times their size."""
    folder = tmp_path_factory.mktemp("versus")
    settings = [*TINY, f"data.name={few_digits}"]
    text = f"""
title: Digits
stage: {ROOT / "configs" / "mnist5k" / "srf16.yaml"}
settings: {json.dumps(settings)}
runs: {folder / "runs"}
factor: 4
seeds: [3]
evaluations: 2
window: 8
limit: 12
samples: 2
gan: {{window: 4, width: 2, pretrain: 0.25}}
"""
    (folder / "small.yaml").write_text(text, encoding="utf-8")
    return folder


def test_three_are_trained_scored_and_judged_and_not_trained_again(comparison, nets):
    words = ["--guide", nets[0], "--features", nets[1], "--json", comparison / "found.json"]
    words += ["--out", comparison / "images.png", "--curves", comparison / "curves.png"]
    done = run_tool("versus", comparison / "small.yaml", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((comparison / "found.json").read_text())
    assert [t["method"] for t in found["trainings"]] == ["flow", "gan", "l1"] * 2
    assert [t["size"] for t in found["trainings"]] == [8] * 3 + [16] * 3
    for each in found["trainings"]:
        assert each["finished"] and each["sound"] and each["seconds"] > 0
        assert [point["step"] for point in each["curve"]] == [2, 4]
    assert all(abs(match["excess"]) <= 0.05 for match in found["matches"])
    scores = {method: rows[0] for method, rows in found["scores"].items()}
    assert set(scores) == {"flow", "gan", "l1", "cubic"}
    assert scores["flow"]["diversity"] > 1 and scores["gan"]["diversity"] == 0
    assert all(row["not_finite"] == 0 and row["frechet"] > 0 for row in scores.values())
    assert scores["l1"]["psnr"] == pytest.approx(scores["cubic"]["psnr"], abs=1)  # hardly trained
    assert len(found["claims"]) == 10 and "[3.858]" in done.stdout
    assert "L1 and the GAN read no noise" in done.stdout
    for claim in found["claims"]:
        assert claim["text"] in done.stdout
    assert (
        (comparison / "images.png").stat().st_size
        > 1000
        < (comparison / "curves.png").stat().st_size
    )

    weights = {file: file.read_bytes() for file in comparison.rglob("*.safetensors")}
    assert len(weights) >= 6
    again = run_tool("versus", comparison / "small.yaml", *words, "--force")
    assert again.returncode == 0 and again.stdout.count("finished before") == 6
    assert {file: file.read_bytes() for file in comparison.rglob("*.safetensors")} == weights
    same = json.loads((comparison / "found.json").read_text())
    assert same == found

    guided = ["--guide", nets[0], "--features", nets[0]]
    other = run_tool("versus", comparison / "small.yaml", *guided)
    assert "the very features that it is scored in, which favours it" in other.stdout
    assert other.stdout.count("was looked at by other features while it trained") == 6

    other = run_tool("versus", comparison / "small.yaml", "net.lr=0.1", *words, "--force")
    assert other.returncode == 2 and "by other settings (net): use another runs=" in other.stderr


@pytest.fixture
def run(comparison, tmp_path, nets):
    """The trainings of another comparison, of one doubler, by method; and how to train them."""
    versus = load_versus(
        comparison / "small.yaml", ["factor=2", f"runs={tmp_path}", f"guide={nets[0]}"]
    )
    configs = stage_configs(versus, 3)
    guide = training.Guide(nets[0], 4, torch.device("cpu"))
    runs = training.runs_of(versus, configs, matches_of(configs), guide)
    features = training.FeatureNet("none", "", None, lambda x: x.float().flatten(1))

    def work(method, watch=lambda step, point: None, config=None):
        (chosen,) = (run for run in runs if run.method == method)
        chosen = replace(chosen, config=config or chosen.config)
        return training.train(chosen, versus, guide, features, watch), chosen

    return work


def test_a_flow_that_is_stopped_goes_on_to_the_same_curve(run):
    def stop(step, row):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("flow", stop)
    seen = []
    _, flow = run("flow", lambda step, row: seen.append(step))
    found = flow.outcome()
    assert found.finished and seen == [4]  # not from the start
    assert [point["step"] for point in found.curve] == [2, 4]
    assert found.curve[0]["seconds"] < found.curve[1]["seconds"] <= found.seconds


def test_a_flow_that_diverges_is_known_as_such(run):
    (_, flow) = run("l1")
    train = replace(flow.config.train, lr=1000.0, warmup=0, skip_limit=0, steps=40)
    done, flow = run("flow", config=replace(flow.config, train=train))
    found = flow.outcome()
    assert done and found.finished and found.diverged and not found.sound


def test_a_net_makes_one_version_and_a_flow_several(run):
    from cascade.versus.comparison import doubler

    low = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    for method, same in (("flow", False), ("l1", True)):
        _, one = run(method)
        versus = type("Settings", (), {"temperature": 1.0})
        chain = [doubler(one, versus)]
        (first, finite), (other, _) = enlarge(chain, low, 0), enlarge(chain, low, 1)
        assert first.shape == (3, 1, 16, 16) and first.dtype == torch.uint8 and finite.all()
        assert torch.equal(first, other) == same
        assert torch.equal(first, enlarge(chain, low, 0)[0])
    one.weights.unlink()
    with pytest.raises(InputError, match="is gone: remove"):
        doubler(one, versus)


@pytest.mark.parametrize("name", sorted((ROOT / "configs" / "versus").glob("*.yaml")), ids=str)
def test_what_is_shipped_can_be_read(name):
    versus = load_versus(name)
    configs = stage_configs(versus, 1)
    assert len(configs) == versus.factor // 2
    assert [c.data.size * 2 ** (len(configs) - 1 - i) for i, c in enumerate(configs)] == [
        configs[-1].data.size
    ] * len(configs)
    for config in configs:
        assert config.seed == 1
        assert config.train.steps // config.train.save_every == versus.evaluations


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampels=3"], "a comparison has no setting sampels; did you mean samples?"),
        (["gan.windows=3"], "a comparison has no setting gan.windows; did you mean gan.window?"),
        (["factor=3"], "factor must be 2 or 4"),
        (["seeds=[]"], "seeds must name at least one seed"),
        (["seeds=[1,1]"], "seeds must be different ones"),
        (["samples=1"], "samples must be at least 2, or there is no diversity"),
        (["temperature=-1"], "temperature must be finite and not below 0"),
        (["gan.pretrain=1"], "gan.pretrain must lie in [0, 1)"),
        (["net.betas=[0.9]"], "net.betas and gan.betas must be two numbers each"),
        (["evaluations=many"], "Value 'many'"),
        (["window"], "'window' is not of the form key=value"),
        (["window=17"], "window=17 is larger than the images, 16x16"),
        (["gan.window=9"], "gan.window=9 is larger than the images, 8x8"),
        (["stage=mnist5k/glow8", "settings=[]"], "must be an SRFlow's"),
        (["stage=mnist5k-haar/srf16", "settings=[]"], "must have model.pyramid=bicubic"),
        (["stage=mnist5k/srf16", "settings=[]"], "must have model.classes=0"),
        (["stage=nowhere"], "no configuration file nowhere"),
        ([], "pass --features FILE.pt, which csrflow features trains"),
        (["--features", "net.pt"], "pass --guide FILE.pt"),
        (["--features", "net.pt", "--guide", "net.pt"], "no file net.pt"),
        (["--curves", "x.png", "--out", "x.png"], "are one file"),
        (["--curves", "x.txt"], "x.txt must end in .png"),
        (["--out", "x.txt"], "x.txt is not a picture's file name"),
    ],
)
def test_errors_are_one_line(comparison, words, message, tmp_path):
    done = run_tool("versus", comparison / "small.yaml", f"runs={tmp_path}/runs", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_and_trains_nothing(comparison, tmp_path):
    done = run_tool("versus", comparison / "small.yaml", f"runs={tmp_path}/runs", "--dry-run")
    assert done.returncode == 0 and done.stdout.count("operations a pixel") == 2
    assert "see 11 and 11 low pixels across" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_comparison_that_is_not_there():
    done = run_tool("versus", "nothing.yaml")
    assert done.returncode == 2
    assert "no comparison nothing.yaml; those that are shipped: versus/" in done.stderr
