"""What the literature says of flows, GANs and L1, and whether it holds for runs at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.evaluation.claims import Spread
from cascade.versus.outcome import Outcome, setbacks
from cascade.versus.scoring import SCORES

# ×4 super-resolution of faces by nets of one size, 2022: FID by Inception, LPIPS; another data set,
# other features and other nets than ours, so a reference for the order alone
PUBLISHED = {
    "frechet": {"gan": 3.858, "flow": 6.026, "l1": 5.822},
    "distance": {"gan": 0.148, "flow": 0.206, "l1": 0.227},
}
COMPARISONS = (  # a claim, its score, the method that is better and those it is better than
    ("the GAN has the least Fréchet distance", "frechet", "gan", "flow", "l1"),
    ("the GAN has the least feature distance", "distance", "gan", "flow", "l1"),
    ("L1 has a smaller Fréchet distance than the flow", "frechet", "l1", "flow"),
    ("the flow has a smaller feature distance than L1", "distance", "flow", "l1"),
    ("L1 has the highest PSNR", "psnr", "l1", "flow", "gan"),
    ("the flow keeps to its low image better than the GAN", "lr_psnr", "flow", "gan"),
    ("the flow alone has versions to offer", "diversity", "flow", "gan", "l1"),
)
NAMES = {"flow": "flow", "gan": "GAN", "l1": "L1", "cubic": "cubic"}
Scores = Mapping[str, Mapping[str, Spread]]
Outcomes = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Claim:
    """A claim, whether it holds (None: there is nothing to tell it by), and the figures."""

    text: str
    holds: bool | None
    figures: str

    def line(self) -> str:
        words = {True: "holds here", False: "does not hold here", None: "cannot be told here"}
        return f"{self.text}: {words[self.holds]} ({self.figures})"


def claims(scores: Scores, outcomes: Outcomes) -> list[Claim]:
    """Every claim beside what was found; ``scores`` and ``outcomes`` are by method."""
    compared = [_compared(scores, text, key, *names) for text, key, *names in COMPARISONS]
    return [*_of_training(outcomes), *compared]


def _compared(scores: Scores, text: str, key: str, best: str, *others: str) -> Claim:
    """A claim that one method's mean score is better than others'."""
    names = (best, *others)
    if any(key not in scores.get(name, {}) for name in names):
        lost = ", ".join(NAMES[name] for name in names if key not in scores.get(name, {}))
        return Claim(text, None, f"no run of {lost} held")
    more = SCORES[key][0]
    found = {name: scores[name][key] for name in names}
    sign = 1 if more else -1
    holds = all(sign * found[best].mean > sign * found[name].mean for name in others)
    figures = ", ".join(f"{NAMES[name]} {figure(key, found[name].mean)}" for name in names)
    close = [name for name in others if not found[best].apart(found[name])]
    several = any(spread.least < spread.most for spread in found.values())
    if several and close:
        figures += f"; within the seeds' spread of {' and '.join(NAMES[name] for name in close)}"
    return Claim(text, holds, figures)


def _of_training(outcomes: Outcomes) -> list[Claim]:
    worse = {name: all_setbacks(runs) for name, runs in outcomes.items()}
    steady = ", ".join(f"{NAMES[name]} {a} of {b}" for name, (a, b) in worse.items())
    failed = {name: sum(not run.sound for run in runs) for name, runs in outcomes.items()}
    counts = ", ".join(f"{NAMES[n]} {failed[n]} of {len(outcomes[n])}" for n in outcomes)
    return [
        Claim(
            "the flow trains monotonically",
            worse["flow"][0] == 0 if worse["flow"][1] else None,
            f"evaluations of its own held-out loss that got worse: {steady}",
        ),
        Claim(
            "the flow trains more steadily than the GAN",
            _share(worse["flow"]) < _share(worse["gan"])
            if worse["flow"][1] and worse["gan"][1]
            else None,
            f"shares that got worse: flow {_share(worse['flow']):.0%}, "
            f"GAN {_share(worse['gan']):.0%}",
        ),
        Claim(
            "fewer runs of the flow than of the GAN stop being finite",
            failed["flow"] < failed["gan"],
            f"runs with a step or a score that was not finite: {counts}",
        ),
    ]


def all_setbacks(runs: Sequence[Outcome], key: str = "objective") -> tuple[int, int]:
    """Of all runs: evaluations that were worse than the one before, of how many."""
    counts = [setbacks(run.curve, key) for run in runs]
    return sum(worse for worse, _ in counts), sum(of for _, of in counts)


def _share(worse: tuple[int, int]) -> float:
    return worse[0] / max(1, worse[1])


def figure(key: str, value: float) -> str:
    """A score as it is printed."""
    return f"{value:.2f}" if key in ("psnr", "lr_psnr", "diversity") else f"{value:.4g}"
