"""How `evaluate.py` prints what it found."""

from __future__ import annotations

from typing import Any

from cascade.commands.shared.cli import say
from cascade.commands.shared.display import figures_table, on_device
from cascade.evaluation.enlargements.no_reference import NAMES

Result = dict[str, Any]
OF_PAIRS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lr_psnr": "LR-PSNR",
    "diversity": "diversity",
    "lpips": "LPIPS",
    **NAMES,
}


def show_samples(result: Result) -> None:
    """The table of scores of samples, and what else was seen of them."""
    known = result["names"]["frechet"] == "FID"
    names = ["FID", "KID"] if known else ["Fréchet", "kernel"]
    rows = [
        [
            str(row["temperature"]),
            f"{row['size']}x{row['size']}",
            f"{row['frechet']:.3f}",
            f"{row['kernel']:.5f}",
            *(f"{row[name]:.3f}" for name in ("precision", "recall", "density", "coverage")),
        ]
        for row in result["scores"]
    ]
    title = f"{result['num']} samples beside {result['images']} images of {result['data']}"
    columns = ["τ", "size", *names, "precision", "recall", "density", "coverage"]
    say(figures_table(title, columns, rows))
    for name in result["names"].values() if not known else ():
        say(name)
    halves = ", ".join(
        f"{half['size']}x{half['size']} {half['frechet']:.3f}" for half in result["halves"]
    )
    say(f"{names[0]} between two halves of the real images themselves: {halves}")
    fewest = min(result["num"], result["images"])
    if fewest <= max(result["dimensions"]):
        say(
            f"note: {fewest} images have no full covariance of {max(result['dimensions'])} "
            f"features; {names[0]} is then biased, and only comparable at equal numbers"
        )
    for seen in result["samples"]:
        apart = ", ".join(f"{value:.2f}" for value in seen["consistency"])
        say(
            f"temperature τ = {seen['temperature']}: {seen['not_finite']} samples not finite"
            + (f"; mean |D(sample) - input| {apart} grey levels" if apart else "")
        )
    mode = f", mode {result['mode']}" if result["mode"] else ""
    say(
        f"features {result['features']} (SHA-256 {result['features_sha256'][:12]}){mode}, "
        f"clean-fid {result['clean-fid']}"
    )


def show_pairs(result: Result) -> None:
    """The table of scores of super-resolution."""
    keys = [key for key in result["names"] if any(key in row for row in result["scores"])]
    rows = [
        [str(row["temperature"]), row["by"], *(number(row.get(key)) for key in keys)]
        for row in result["scores"]
    ]
    names = [result["names"][key] for key in keys]
    title = f"{result['images']} images of {result['data']}, raised {result['factor']} times"
    say(figures_table(title, ["τ", "by", *names], rows))
    say(
        f"τ: temperature; {result['samples_an_image']} samples an image; PSNR in dB; LR-PSNR: of "
        "the low image; diversity: deviation over samples, in grey levels"
    )
    if result["calibration"]:
        show_calibration(result)
    net = result["lpips_net"]
    say(
        f"LPIPS by the net {net} (SHA-256 {result['lpips_sha256'][:12]})"
        if net
        else "LPIPS was not computed: it needs --lpips FILE.pt"
    )
    say_judges(result["no_reference"])


def show_calibration(result: Result) -> None:
    """The table of how sure the samples are, a column a temperature, and what it says."""
    found = result["calibration"]
    rows = [
        ["CRPS", *(number(row["crps"]) for row in found)],
        ["mean error of the samples' mean", *(number(row["mean_error"]) for row in found)],
        ["mean error of bicubic", *(number(row["bicubic_error"]) for row in found)],
        ["spread / error, exact: 1", *(number(row["spread_to_error"]) for row in found)],
        *(
            [f"true values in {here[0]['level']:.0%} intervals", *map(percent, here)]
            for here in zip(*(row["coverage"] for row in found), strict=True)
        ),
        [
            "unevenness of ranks (exact, by chance)",
            *(f"{row['unevenness']:.3f} ({row['by_chance']:.3f})" for row in found),
        ],
        ["values that are decided", *(f"{row['decided']:.1%}" for row in found)],
    ]
    columns = ["", *(f"τ = {row['temperature']}" for row in found)]
    say(figures_table("how sure the samples are", columns, rows))
    say(
        "CRPS and errors (mean absolute) in grey levels, of all values; decided: samples and truth "
        "all agree, which says nothing of the rest and is left out of it"
    )
    for row in found:
        say(f"temperature τ = {row['temperature']}: {row['verdict']}")


def percent(coverage: dict[str, float]) -> str:
    return f"{coverage['share']:.1%} ± {coverage['error']:.1%}"


def say_judges(found: dict[str, dict[str, Any]]) -> None:
    """Where scores without a reference come from."""
    for key, origin in found.items():
        by = f" by {origin['file']} (SHA-256 {origin['sha256'][:12]})" if origin["file"] else ""
        say(f"{NAMES[key]}{by}: of an image alone, the less the better")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def say_origin(result: Result) -> None:
    versions = ", ".join(f"{name} {results}" for name, results in result["versions"].items())
    of = f"{result['data']}, {result['split']} split, seed {result['seed']}, {on_device(result)}"
    say(f"{of}; {versions}")
    if "data_version" in result:
        say(f"the images are {result['data_version']}: figures of another version do not compare")
    if result["skipped"]:
        say(f"unreadable images left out: {result['skipped']}")
