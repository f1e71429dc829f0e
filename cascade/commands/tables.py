"""A table of scores: python tools/tables.py configs/tables/mnist5k.yaml --features FILE.pt"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.progress import Progress
from torch import Tensor

from cascade import Cascade, InputError
from cascade.commands.evaluate import add_net_arguments, feature_net
from cascade.commands.shared import cli, train_all
from cascade.commands.shared.images import open_source
from cascade.commands.shared.markdown_table import REAL, Entry, Scores, markdown
from cascade.config import load_config
from cascade.data.sources import ImageSource, drawn, fingerprint
from cascade.evaluation.distances import compare
from cascade.evaluation.features import FeatureNet
from cascade.evaluation.robustness import stability
from cascade.evaluation.sample_quality import real_features, sample_features
from cascade.evaluation.scoring import Protocol, score_source
from cascade.evaluation.tables import (
    BITS,
    FAILED,
    REPLACED,
    Part,
    Row,
    Table,
    load_row,
    load_table,
    parts,
)
from cascade.utils.files import whole


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
    scored: dict[str, list[Scores]] = {row.title: [] for row in table.rows}
    asked = 0
    for row in table.rows:
        for seed in table.trainings:
            asked += 1
            if all(part.trained(table) for part in parts(row, seed)):
                scored[row.title].append(score(row, seed, table, net, entries, args, state))
                if state.is_main_process:
                    cli.write_json(entries, str(known))
                    write(markdown(table, scored, net), out)
    if not state.is_main_process:
        return
    done = sum(map(len, scored.values()))
    if done:
        for line in out.read_text("utf-8").splitlines():
            cli.say(line)
        cli.say(f"{out} holds the table, {known} every score")
    undone = [part for part in missing if not part.trained(table)]
    if undone:
        what = "cascades" if table.seeds else "rows"
        raise InputError(
            f"{asked - done} of {asked} {what} lack a trained stage; "
            f"pass --train, or train {len(undone)} stages, first: {command(undone[0], table)}"
        )


def read_entries(known: Path) -> list[Entry]:
    """The scores that earlier runs found."""
    try:
        result = json.loads(known.read_text("utf-8"))
    except (ValueError, RecursionError):
        result = None
    sound = isinstance(result, list) and all(isinstance(entry, dict) for entry in result)
    figures = ({"size", "frechet"}, {BITS}, {FAILED})  # one kind an entry
    if not sound or not all("of" in e and any(f <= set(e) for f in figures) for e in result):
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
    named = (parts(row, seed) for seed in table.trainings for row in table.rows)
    return list({part.folder: part for several in named for part in several}.values())


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
    seed: int | None,
    table: Table,
    net: FeatureNet,
    entries: list[Entry],
    args: argparse.Namespace,
    state: PartialState,
) -> Scores:
    """The figures of a row's cascade; what ``entries`` lack is computed and added to them."""
    cascade = load_row(row, table, args.device, args.chunk, seed)
    read = argparse.Namespace(resize=None, skip_bad=False, root=table.root)
    source = open_source(cascade, read, table.data, table.split)
    indices = drawn(source, table.limit)
    of_all = {"images": len(indices), "source_sha256": fingerprint(source)}
    hidden = not state.is_main_process
    with Progress(console=cli.console, transient=True, disable=hidden) as bar:
        task = bar.add_task(row.title, total=None)

        def advance(count: int) -> None:
            bar.advance(task, count)

        result = distances(
            cascade, table, net, entries, (source, indices, of_all), args.device, state, advance
        )
        result[REAL] = len(indices)
        disturbed = [part for part in parts(row, seed) if part.sigma]
        replaced = disturbed[-1].replaced(table) if disturbed else None
        result |= {} if replaced is None else {REPLACED: replaced}
        top = len(cascade.stages) - 1
        if table.likelihood:
            kept = drawn(source, min(table.likelihood, len(indices)))  # some of the indices
            of = key(cascade, top, table) | of_all | {"likelihood": len(kept)}
            protocol = Protocol(1, table.seed, "marginal" if cascade.classes else None)

            def bits() -> float:
                rows = score_source(
                    cascade, source, kept, protocol, state=state, advance=advance, files=False
                )
                nats = torch.tensor([scored.nats for scored in rows], dtype=torch.float64)
                return cascade.report(nats).bpd

            result[BITS] = remembered(entries, of, BITS, bits, state)
        if table.failures:
            of = key(cascade, top, table) | {"num": table.failures}

            def failed() -> float:
                return stability(cascade, table.failures, table.temperature, seed=table.seed).failed

            result[FAILED] = remembered(entries, of, FAILED, failed, state)
    return result


def remembered(
    entries: list[Entry], of: Entry, name: str, work: Callable[[], float], state: PartialState
) -> float:
    """A figure of ``entries``, where all processes work it out and add it if it is missing."""
    known = next((e[name] for e in entries if e["of"] == of and name in e), None)
    result = broadcast_object_list([known])[0]  # the main process alone keeps entries
    if result is None:
        result = work()
        if state.is_main_process:
            entries.append({"of": of, name: result})
    return result


def distances(
    cascade: Cascade,
    table: Table,
    net: FeatureNet,
    entries: list[Entry],
    real: tuple[ImageSource, Tensor, Entry],
    device: str,
    state: PartialState,
    advance: Callable[[int], None],
) -> Scores:
    """Fréchet distances by size; ``real`` are images at some places of a source, and what they are.

    What ``entries`` lack is computed and added to them.
    """
    source, indices, of_all = real
    levels = [i for i, stage in enumerate(cascade.stages) if stage.shape[1] in table.sizes]
    keys = {level: key(cascade, level, table) | of_all | net.origin for level in levels}
    known: dict[int, Any] = {
        level: next((e for e in entries if e["of"] == keys[level] and "frechet" in e), None)
        for level in levels
    }
    missing = [level for level in levels if known[level] is None]
    wanted = broadcast_object_list([missing])[0]  # the main process alone keeps entries
    if wanted:
        features = real_features(
            cascade, source, indices, net, wanted, Path(table.runs, "features"), state, advance
        )
        drawing = sample_features(
            cascade, table.num, net, wanted, table.temperature, table.seed, state, advance
        )
        for level, theirs in features.features.items():
            result = compare(theirs, drawing.features[level], table.seed, device)
            known[level] = {
                "of": keys[level],
                "size": cascade.stages[level].shape[1],
                **result,
                "pixels_sha256": features.digests[level],
            }
            entries.append(known[level])
    return {str(known[i]["size"]): known[i]["frechet"] for i in levels if known[i]}


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


def write(text: str, file: Path) -> None:
    with whole(file) as aside:
        aside.write_text(text, "utf-8")
