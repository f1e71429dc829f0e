"""How `likelihood.py` prints what it found."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cascade import Report
from cascade.commands.shared.cli import say
from cascade.evaluation.layer_checks import StageCheck
from cascade.evaluation.variational import VariationalReport
from cascade.sample_checks import SampleCheck


def figures_table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table whose first column is names and whose others are figures."""
    table = Table(columns[0], title=title)
    for name in columns[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def on_device(result: dict[str, Any]) -> str:
    """What last bits depend on beside weights and settings."""
    return f"{result['device']}, chunks of {result['chunk']}"


def show_report(report: Report, drawn: SampleCheck, result: dict[str, Any]) -> None:
    """The likelihood table, and everything a reader needs to quote it."""
    bpd = f"{report.bpd:.3f} ± {report.stderr:.3f}"
    rows = [
        [s["name"], f"{s['nats']:.1f}", f"{s['bpd']:.3f}", f"{s['share']:.3f}"]
        for s in report.stages
    ]
    title = f"{result['data']}, {result['split']}"
    table = figures_table(title, ["stage", "nats", "own bits/dim", "share"], rows)
    table.add_section()
    table.add_row("cascade", f"{report.nats.sum(1).mean():.1f}", "", bpd)
    say(table)
    treatment = f", classes {result['label_mode']}" if result["label_mode"] else ""
    speed = f"; {result['images_per_s']:.1f} images/s" if result["images_per_s"] else ""
    say(
        f"{bpd} bits/dim over {result['images']} images (K = {result['samples']}, seed "
        f"{result['seed']}{treatment}, {result['dtype']}, {on_device(result)}){speed}"
    )
    if "data_version" in result:
        say(f"the images are {result['data_version']}: figures of another version do not compare")
    if result["accuracy"] is not None:
        say(f"accuracy of the most likely class: {result['accuracy']:.1%}")
    if result["skipped"]:
        say(f"unreadable images left out: {result['skipped']}")
    if result["files"]:
        sizes = ", ".join(f"{name} {size:.3f}" for name, size in result["files"].items())
        say(f"the same images as lossless files, bits/dim: {sizes}")
    for pair, results in zip(report.names[1:], drawn.consistency, strict=True):
        say(
            f"consistency of {pair}'s samples with their input: |D(sample) - input| "
            f"{results['mean']:.2f} of {2**report.bits} grey levels on average, "
            f"{results['worst']:.0f} at worst, {results['exact']:.1%} of values exact"
        )
    if not report.bounded:
        say(clip_line(drawn.clip_rates))
    say(report.statement)


def clip_line(rates: dict[str, Any]) -> str:
    """How many of the samples held values that no image has."""
    values = ", ".join(f"{name} {rate:.2%}" for name, rate in rates["values"].items())
    some = f"{rates['samples']:.1%} of {rates['of']} samples had some"
    return f"clipped in samples: {values} of values; {some}"


def show_comparison(title: str, separations: dict[str, float], theirs: Report) -> None:
    """AUROC by figure, and the other set's bits/dim."""
    rows = [[name, f"{value:.3f}"] for name, value in separations.items()]
    say(figures_table(title, ["figure", "AUROC"], rows))
    say(f"the other set: {theirs.bpd:.3f} ± {theirs.stderr:.3f} bits/dim")


def show_bounds(sigma: float, reports: dict[str, VariationalReport], labels: str | None) -> None:
    """Each stage on clean and disturbed conditions, and the bound that replaces two terms.

    ``labels`` says whose they are: given, the most likely ones, or None where stages use none.
    """
    rows = []
    for name, report in reports.items():
        bound = "none" if report.pyramid == "haar" else f"{report.bound.mean():.1f}"
        means = [f"{x.mean():.1f}" for x in (report.clean, report.noisy, report.kl)]
        rows.append([name, *means, bound])
    columns = ["stage", "clean", "noisy", "KL", "noisy - KL"]
    at = f", at each image's {labels} label" if labels else ""
    say(figures_table(f"conditions disturbed by σ = {sigma:g}, nats{at}", columns, rows))
    say(
        "noisy - KL bounds log P(image | the image two stages below): it stands in place of the "
        "clean term and the previous stage's, never beside them. A Haar cascade has no such bound: "
        "its sum of stages is an equality. Details that a disturbed low image does not admit are "
        "scored by a mixture as the nearest that it does."
    )
    if labels:
        say(
            f"all of it is conditional on the {labels} labels: set it beside --label-mode given, "
            "not beside a table that sums over classes"
        )


def show_checks(checks: list[StageCheck]) -> None:
    """The worst of each kind of layer, stage by stage, and a verdict."""
    for check in checks:
        rows = []
        for kind in dict.fromkeys(layer.kind for layer in check.layers):
            layers = [layer for layer in check.layers if layer.kind == kind]
            trip = max(layer.round_trip for layer in layers)
            error = max(layer.log_det_error for layer in layers)
            condition = max(layer.condition for layer in layers)
            rows.append(
                [f"{len(layers)} {kind}", f"{trip:.1e}", f"{error:.1e}", f"{condition:.1f}"]
            )
        columns = ["worst of", "round trip", "log-det error", "condition"]
        say(figures_table(check.name, columns, rows))
        noise = f"noise of mean {check.noise_mean:.2f} and deviation {check.noise_std:.2f}"
        say(f"{check.exact:.0%} of images come back exactly; {noise}")
        say(f"{check.name}: {check.verdict}")
