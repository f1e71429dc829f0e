"""A table of scores: python tools/tables.py configs/tables/mnist5k.yaml --features FILE.pt"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.progress import Progress

from cascade import Cascade, InputError
from cascade.commands.evaluate import add_net_arguments, feature_net
from cascade.commands.shared import cli, train_all
from cascade.commands.shared.images import drawn, open_source
from cascade.config import load_config
from cascade.data.sources import fingerprint
from cascade.evaluation.distances import compare
from cascade.evaluation.features import FeatureNet
from cascade.evaluation.sample_quality import real_features, sample_features
from cascade.evaluation.tables import Part, Row, Table, load_row, load_table, parts
from cascade.utils.files import whole

Entry = dict[str, Any]


def main() -> None:
    args = parse()
    table = load_table(args.config, args.overrides)
    out = Path(args.out or Path(table.runs, "table.md"))
    if out.suffix != ".md":
        raise InputError(f"--out is a Markdown file such as table.md, got {out}")
    known = out.with_suffix(".json")
    if not known.exists():
        cli.check_outputs([str(out)], args.force)
    state = PartialState(cpu=not torch.cuda.is_available())
    args.device = args.device or state.device
    cli.device_of(args)
    net = feature_net(args)
    missing = [part for part in stages(table) if not part.trained(table)]
    if args.train and not train(missing, table, state):
        return
    entries = [] if args.force or not known.exists() else read_entries(known)
    scored: dict[str, list[Entry]] = {}
    for row in table.rows:
        if all(part.trained(table) for part in parts(row.name)):
            scored[row.name] = score(row, table, net, entries, args, state)
            if state.is_main_process:
                cli.write_json(entries, str(known))
                write(markdown(table, scored, net), out)
    if not state.is_main_process:
        return
    if scored:
        for line in out.read_text("utf-8").splitlines():
            cli.say(line)
        cli.say(f"{out} holds the table, {known} every score")
    undone = [part for part in missing if not part.trained(table)]
    if undone:
        raise InputError(
            f"{len(table.rows) - len(scored)} of {len(table.rows)} rows lack a trained stage; "
            f"pass --train, or train {len(undone)} stages, first: {command(undone[0], table)}"
        )


def read_entries(known: Path) -> list[Entry]:
    """The scores that earlier runs found."""
    try:
        result = json.loads(known.read_text("utf-8"))
    except (ValueError, RecursionError):
        result = None
    needed = {"of", "size", "frechet"}
    sound = isinstance(result, list) and all(isinstance(entry, dict) for entry in result)
    if not sound or not all(needed <= set(entry) for entry in result):
        raise InputError(f"{known} is damaged: it holds no list of scores; --force scores again")
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="YAML file of the table")
    parser.add_argument("overrides", nargs="*", help="settings to change, as key=value")
    add_net_arguments(parser)
    parser.add_argument("--train", action="store_true", help="train the stages that are missing")
    parser.add_argument("--out", help="Markdown to write (default: table.md beside the stages)")
    cli.add_chunk_argument(parser)
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--force", action="store_true", help="score finished rows again")
    return parser.parse_intermixed_args()


def stages(table: Table) -> list[Part]:
    """All stages of the table, each once, after those that it is trained on."""
    return list(dict.fromkeys(part for row in table.rows for part in parts(row.name)))


def train(missing: list[Part], table: Table, state: PartialState) -> bool:
    """Train what is missing, as `train.py --all` does; False if stopped."""
    if state.num_processes > 1:
        raise InputError("--train starts processes of its own: run tables.py without a launcher")
    return train_all.train([job(part, table) for part in missing])


def job(part: Part, table: Table) -> train_all.Job:
    file, settings = part.config(table), part.settings(table)
    return train_all.Job(file, load_config(file, settings), settings)


def command(part: Part, table: Table) -> str:
    return shlex.join(["csrflow", "train", str(part.config(table)), *part.settings(table)])


def score(
    row: Row,
    table: Table,
    net: FeatureNet,
    entries: list[Entry],
    args: argparse.Namespace,
    state: PartialState,
) -> list[Entry]:
    """The row's entries, one a size; what ``entries`` lack is computed and added to them."""
    cascade = load_row(row, table, args.device, args.chunk)
    read = argparse.Namespace(resize=None, skip_bad=False, root=table.root)
    source = open_source(cascade, read, table.data, table.split)
    indices = drawn(source, table.limit)
    levels = [i for i, stage in enumerate(cascade.stages) if stage.shape[1] in table.sizes]
    of_all = {"images": len(indices), "source_sha256": fingerprint(source), **net.origin}
    keys = {level: key(cascade, level, table) | of_all for level in levels}
    known: dict[int, Any] = {
        level: next((e for e in entries if e["of"] == keys[level]), None) for level in levels
    }
    missing = [level for level in levels if known[level] is None]
    wanted = broadcast_object_list([missing])[0]  # the main process alone keeps entries
    hidden = not state.is_main_process
    if wanted:
        with Progress(console=cli.console, transient=True, disable=hidden) as bar:
            task = bar.add_task(row.name, total=None)

            def advance(count: int) -> None:
                bar.advance(task, count)

            real = real_features(
                cascade, source, indices, net, wanted, Path(table.runs, "features"), state, advance
            )
            drawing = sample_features(
                cascade, table.num, net, wanted, table.temperature, table.seed, state, advance
            )
            for level, features in real.features.items():
                result = compare(features, drawing.features[level], table.seed, args.device)
                known[level] = {
                    "of": keys[level],
                    "size": cascade.stages[level].shape[1],
                    **result,
                    "pixels_sha256": real.digests[level],
                }
                entries.append(known[level])
    return [known[level] for level in levels if known[level]]


def key(cascade: Cascade, level: int, table: Table) -> Entry:
    """What a score is of: the stages up to a level, and the protocol."""
    return {
        "weights": [stage.digest for stage in cascade.stages[: level + 1]],
        "data": table.data,
        "split": table.split,
        "num": table.num,
        "temperature": table.temperature,
        "seed": table.seed,
        "chunk": cascade.chunk,
    }


def markdown(table: Table, scored: dict[str, list[Entry]], net: FeatureNet) -> str:
    """The table with our number beside the published one, and the protocol below it."""
    lines = [
        f"# {table.title}",
        "",
        "| model | replaced | " + " | ".join(map(str, table.sizes)) + " |",
        "|---|---|" + "---|" * len(table.sizes),
    ]
    for row in table.rows:
        ours = {entry["size"]: entry["frechet"] for entry in scored.get(row.name, [])}
        cells = [beside(ours.get(size), row.published.get(size)) for size in table.sizes]
        share = beside(replaced(row, table), row.replaced)
        lines.append(f"| {row.name} | {share} | " + " | ".join(cells) + " |")
    distance = net.labels["frechet"]
    compared = any(row.published for row in table.rows)
    lines += ["", distance + ("; in brackets the published FID." if compared else ".")]
    if not net.genuine:
        lines.append("These are other features than FID's: only our own rows compare.")
    images = next((e["of"]["images"] for result in scored.values() for e in result), None)
    mode = f", clean-fid's mode {net.mode}" if net.mode else ""
    lines.append(
        f"{table.num} samples at temperature {table.temperature:g}, seed {table.seed}, beside "
        f"{images} images of {table.data}, {table.split} split, halved to size. Features "
        f"{net.name}, SHA-256 {net.digest}{mode}; clean-fid {net.origin['clean-fid']}, "
        f"torch {torch.__version__}."
    )
    return "\n".join(lines) + "\n"


def beside(ours: float | None, published: float | None) -> str:
    own = "–" if ours is None else f"{ours:.2f}"
    return ("" if ours is None else own) if published is None else f"{own} ({published:.2f})"


def replaced(row: Row, table: Table) -> float | None:
    """The share of disturbed low images that training of the row's last σ stage gave up on."""
    disturbed = [part for part in parts(row.name) if part.sigma and part.trained(table)]
    return disturbed[-1].replaced(table) if disturbed else None


def write(text: str, file: Path) -> None:
    with whole(file) as aside:
        aside.write_text(text, "utf-8")
