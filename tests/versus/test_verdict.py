"""Verdicts follow figures (`versus.verdict`, `versus.outcome`, `versus.scoring`, pictures)."""

import json
import math

import pytest
import torch

from cascade.evaluation.claims import Spread
from cascade.versus.outcome import Outcome, Stopwatch, read_outcome, setbacks
from cascade.versus.pictures import chosen, difference, scaled
from cascade.versus.scoring import SCORES, Pairs
from cascade.versus.verdict import claims
from stages import InputError

METHODS = ("flow", "gan", "l1")


def outcome(*losses, **changes):
    points = [
        {"step": i, "seconds": 1.0, "objective": loss, "psnr": 30.0, "distance": 0.1}
        for i, loss in enumerate(losses)
    ]
    return Outcome({"seed": 0}, points, **changes)


def spread(*values):
    return Spread.of(values)


def verdicts(scores, outcomes=None):
    steady = {name: [outcome(3, 2, 1)] for name in METHODS}
    found = claims(scores, steady | (outcomes or {}))
    return {claim.text: claim for claim in found}


def all_scores(**of):
    """Scores by method: those of ``flow``, ``gan`` and ``l1`` alike but for what is given."""
    return {
        name: {key: spread(*of.get(name, {}).get(key, [1.0])) for key in SCORES} for name in METHODS
    }


@pytest.mark.parametrize(
    ("text", "key", "best", "others"),
    [
        ("the GAN has the least Fréchet distance", "frechet", "gan", ("flow", "l1")),
        ("the GAN has the least feature distance", "distance", "gan", ("flow", "l1")),
        ("L1 has a smaller Fréchet distance than the flow", "frechet", "l1", ("flow",)),
        ("the flow has a smaller feature distance than L1", "distance", "flow", ("l1",)),
        ("L1 has the highest PSNR", "psnr", "l1", ("flow", "gan")),
        ("the flow keeps to its low image better than the GAN", "lr_psnr", "flow", ("gan",)),
        ("the flow alone has versions to offer", "diversity", "flow", ("gan", "l1")),
    ],
)
def test_a_comparison_holds_where_its_method_is_best_and_turns_where_another_is(
    text, key, best, others
):
    lower = key in ("frechet", "distance")
    better, worse = ([0.5], [1.5]) if lower else ([1.5], [0.5])
    found = verdicts(all_scores(**{best: {key: better}}))
    assert found[text].holds
    for other in others:
        values = {best: {key: better}, other: {key: [0.25] if lower else [2.0]}}
        assert found.keys() == verdicts(all_scores(**values)).keys()
        assert verdicts(all_scores(**values))[text].holds is False
    assert verdicts(all_scores(**{best: {key: worse}}))[text].holds is False
    assert verdicts(all_scores())[text].holds is False  # where all are alike


def test_a_verdict_holds_its_figures_and_says_where_seeds_overlap():
    seeds = {"gan": [1.0, 2.0], "flow": [1.9, 4.0], "l1": [5.0, 6.0]}
    scores = all_scores(**{name: {"frechet": values} for name, values in seeds.items()})
    claim = verdicts(scores)["the GAN has the least Fréchet distance"]
    assert claim.holds and claim.line() == (
        "the GAN has the least Fréchet distance: holds here "
        "(GAN 1.5, flow 2.95, L1 5.5; within the seeds' spread of flow)"
    )
    scores["gan"] = {}
    claim = verdicts(scores)["the GAN has the least Fréchet distance"]
    assert claim.holds is None and "cannot be told here (no run of GAN held)" in claim.line()


def test_what_is_said_of_training():
    rough = {"gan": [outcome(3, 4, 1, 2), outcome(3, 2, 1, 0, diverged=True)]}
    found = verdicts(all_scores(), rough)
    claim = found["the flow trains monotonically"]
    assert claim.holds and "flow 0 of 2, GAN 2 of 6, L1 0 of 2" in claim.figures
    assert found["the flow trains more steadily than the GAN"].holds
    claim = found["fewer runs of the flow than of the GAN stop being finite"]
    assert claim.holds and "flow 0 of 1, GAN 1 of 2" in claim.figures
    found = verdicts(all_scores(), {"flow": [outcome(1, 2, skipped=1)]})
    assert not any(found[text].holds for text in list(found)[:3])
    lost = {"flow": [outcome(1, diverged=True)], "gan": [outcome(3, 2, 3)]}
    assert verdicts(all_scores(), lost)["the flow trains more steadily than the GAN"].holds is None


def test_setbacks_count_what_got_worse():
    curve = outcome(3, 2, 2, 5, math.nan, 1).curve
    assert setbacks(curve, "objective") == (2, 5)
    switched = [point | {"phase": int(i > 2)} for i, point in enumerate(curve)]
    assert setbacks(switched, "objective") == (1, 4)  # 5 is of another loss than the 2 before
    rising = [{"psnr": value} for value in (20.0, 21.0, 20.5, None)]
    assert setbacks(rising, "psnr") == (2, 3)
    assert setbacks([], "psnr") == (0, 0)


def test_what_is_not_finite_is_not_sound():
    assert outcome(2, 1).sound
    for bad in (outcome(2, math.inf), outcome(1, skipped=1), outcome(1, diverged=True)):
        assert not bad.sound


def test_an_outcome_is_read_as_it_was_written(tmp_path):
    file, done = tmp_path / "gan.json", outcome(2.5, 1.5, seconds=3.0, finished=True)
    assert read_outcome(file, done.of) == Outcome(done.of)
    done.save(file)
    assert read_outcome(file, done.of) == done
    with pytest.raises(InputError, match=r"by other settings \(seed\): use another runs="):
        read_outcome(file, {"seed": 1})
    for text in ("", "[]", '{"of": {}, "other": 1}', "[["):
        file.write_text(text)
        with pytest.raises(InputError, match="gan.json is damaged: remove it"):
            read_outcome(file, done.of)


def test_what_a_training_repeats_is_forgotten():
    known = outcome(3, 2, 1, seconds=9.0)
    for point in known.curve:
        point["seconds"] = 2.0 * point["step"]
    known.forget_after(5)
    assert len(known.curve) == 3 and known.seconds == 9.0  # it was stopped after the last of them
    known.forget_after(1)
    assert [point["step"] for point in known.curve] == [0, 1] and known.seconds == 2.0
    known.forget_after(0)
    assert len(known.curve) == 1 and known.seconds == 0.0


def test_a_score_that_is_not_finite_is_kept_as_none(tmp_path):
    outcome(math.nan).save(tmp_path / "flow.json")
    assert json.loads((tmp_path / "flow.json").read_text())["curve"][0]["objective"] is None


def test_pauses_do_not_count():
    watch = Stopwatch(torch.device("cpu"), before=5.0)
    first = watch.seconds
    with watch.paused():
        sum(i * i for i in range(300_000))
    assert 5.0 <= first <= watch.seconds < first + 0.01


def test_pairs_know_their_factor():
    true = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    pairs = Pairs(true, torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 8)
    assert pairs.factor == 4 and pairs.halved(true).shape == (2, 1, 4, 4)


def test_differences_are_grey_where_there_are_none():
    one = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    assert (difference(one, one) == 128).all()
    flat = torch.full((1, 1, 1), 100, dtype=torch.uint8)
    assert difference(flat + 5, flat).item() == 148 and difference(flat - 90, flat).item() == 0


def test_images_are_chosen_from_the_plainest_to_the_busiest():
    true = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    for i, contrast in enumerate((90, 10, 200, 0, 50)):
        true[i, 0, ::2] = contrast
    assert chosen(true, 3) == [3, 4, 2] and chosen(true, 9) == [3, 1, 4, 0, 2]


def test_losses_are_brought_to_one_scale():
    assert scaled([(0, 6.0), (1, 4.0), (2, 8.0)]) == [(0, 0.5), (1, 0.0), (2, 1.0)]
    assert scaled([(0, 2.0)]) == [(0, 0.0)] and scaled([]) == []
