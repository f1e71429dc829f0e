"""Pictures of what a cascade draws, beside numbers of them."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor

from cascade import Cascade, InputError
from cascade.commands.shared.images import choose, load, open_data, real_images
from cascade.data.sources import ImageSource
from cascade.evaluation.enlargements.ensembles import level_of, versions
from cascade.evaluation.neighbours import Neighbours, neighbours
from cascade.figures.grid import grid, save_moving
from cascade.figures.interpolation import between, walk
from cascade.figures.sheets import Block, save_sheet
from cascade.sample_checks import consistency
from cascade.stage import per_stage
from cascade.transforms.dequantise import bits_per_dim, expand_bits, reduce_bits
from cascade.utils.non_finite import NONE_FINITE

Row = dict[str, Any]
WIDTH, PAUSE = 320, 80  # of a moving picture, pixels; of a frame, milliseconds
SHOWN, NEAREST = 8, 5  # samples that are shown, and training images beside each
HELD_OUT = 256  # real images that samples are compared with


def resolutions(cascade: Cascade) -> list[str]:
    """A cascade's stages as names of rows, base first."""
    return [f"{stage.name}, {stage.shape[1]}x{stage.shape[2]}" for stage in cascade.stages]


def draw_samples(args: argparse.Namespace) -> list[Row]:
    rows, blocks = [], []
    for run in args.runs:
        cascade = load(run, args)
        draw = cascade.draw(args.num, None, args.temperature, args.seed)
        if not draw.finite.any():
            raise InputError(NONE_FINITE)
        blocks.append(Block(run, draw.images, names=resolutions(cascade)))
        levels = [reduce_bits(images, cascade.bits) for images in draw.images]
        pairs = consistency(levels, cascade.stages)
        for i, stage in enumerate(cascade.stages):
            rows.append(
                {
                    "run": run,
                    "stage": stage.name,
                    "temperature": ",".join(f"{t:g}" for t in args.temperature),
                    "clipped": draw.clipped[:, i].mean().item(),
                    "beyond_one_range": (draw.out_of_range[:, i] > 1).double().mean().item(),
                    "grey_levels_from_input": pairs[i - 1]["mean"] if i else "",
                }
            )
    save_sheet(blocks, args.out)
    return rows


def draw_versions(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    if cascade.given:
        return _draw_completions(cascade, args)
    size = args.low or cascade.stages[0].shape[1]
    place = level_of(cascade, size)
    if args.drawn:
        draw = cascade.draw(args.num, None, args.temperature, args.seed)
        shown, labels, low = [], draw.labels, draw.images[place]
    else:
        images, labels = real_images(cascade, args, args.num)
        shown, low = [images[:, None]], expand_bits(cascade.levels(images)[place], cascade.bits)
    result = versions(cascade, low, args.each, labels, args.temperature, args.seed)[-1]
    spread = result.double().std(1, correction=0)
    white = (2 * spread).round().to(torch.uint8)  # no deviation is larger than 127.5 grey levels
    names = [f"{size}x{size}", *(f"version {i + 1}" for i in range(args.each)), "spread", "real"]
    rows = [
        [image for part in (low[:, None], result, white[:, None], *shown) for image in part[n]]
        for n in range(len(low))
    ]
    title = "versions of one low image; spread: deviation of pixels, white is 127.5 grey levels"
    save_sheet([Block(title, rows, names[: len(rows[0])])], args.out)
    halved = expand_bits(cascade.levels(result.flatten(0, 1))[place], cascade.bits)
    off = (halved.unflatten(0, result.shape[:2]).int() - low[:, None].int()).abs().double()
    return [
        {
            "image": n,
            "label": "" if labels is None else labels[n].item(),
            "spread": spread[n].mean().item(),
            "grey_levels_from_low": off[n].mean().item(),
        }
        for n in range(len(low))
    ]


def _draw_completions(cascade: Cascade, args: argparse.Namespace) -> list[Row]:
    """Versions of images of which a part is given."""
    if args.low or args.drawn:
        raise InputError(f"--low and --drawn are for cascades: this stage is given {cascade.given}")
    images, labels = real_images(cascade, args, args.num)
    given = cascade.stages[0].condition(reduce_bits(images, cascade.bits))
    assert given is not None
    given = expand_bits(given, cascade.bits)
    (result,) = versions(cascade, given, args.each, labels, args.temperature, args.seed)
    spread = result.double().std(1, correction=0)
    white = (2 * spread).round().to(torch.uint8)
    names = [cascade.given, *(f"version {i + 1}" for i in range(args.each)), "spread", "real"]
    rows = [
        [given[n, : images.shape[1]], *result[n], white[n], images[n]] for n in range(len(images))
    ]  # fmt: skip
    title = "versions; spread: deviation of pixels, white is 127.5 grey levels"
    save_sheet([Block(title, rows, names)], args.out)
    nats = cascade.stage_log_probs(images, labels, seed=args.seed)[0]
    bpd = cascade.report(nats).image_bpd
    return [
        {"image": n, "spread": spread[n].mean().item(), "bpd": bpd[n].item()}
        for n in range(len(images))
    ]


def draw_temperatures(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    usual = per_stage(args.temperature, len(cascade.stages))
    columns = [f"τ = {value:g}" for value in args.values]
    rows, blocks = [], []
    for i, stage in enumerate(cascade.stages):
        settings = [[*usual[:i], value, *usual[i + 1 :]] for value in args.values]
        draws = [cascade.draw(args.num, None, setting, args.seed) for setting in settings]
        images = torch.stack([draw.images[-1] for draw in draws], dim=1)
        others = ", ".join(
            f"{s.name} {t:g}" for s, t in zip(cascade.stages, usual, strict=True) if s is not stage
        )
        title = f"temperature of {stage.name}" + (f" (others: {others})" if others else "")
        blocks.append(Block(title, images, columns))
        rows += [
            {
                "stage": stage.name,
                "temperature": value,
                "clipped": draw.clipped[:, i].mean().item(),
                "beyond_one_range": (draw.out_of_range > 1).any(1).double().mean().item(),
            }
            for value, draw in zip(args.values, draws, strict=True)
        ]
    save_sheet(blocks, args.out)
    return rows


def draw_interpolation(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    images, labels = real_images(cascade, args, 2 * args.num)
    num = len(images) // 2
    if not num or args.steps < 2:
        raise InputError("an interpolation needs two images, and --steps 2 or more")
    shares = [i / (args.steps - 1) for i in range(args.steps)]
    pairs = slice(0, 2 * num, 2), slice(1, 2 * num, 2)
    ends = [None if labels is None else labels[part] for part in pairs]
    way = between(cascade, images[pairs[0]], images[pairs[1]], shares, ends[0], ends[1])
    frames = [cascade.decode_levels(noises, ends[0]) for noises in way]
    levels = [torch.stack(level) for level in zip(*frames, strict=True)]
    names = [f"pair {n + 1}" for n in range(num)]
    if labels is not None:
        known = cascade.class_names
        names = [f"{known[one]} to {known[two]}" for one, two in zip(*ends, strict=True)]
    columns = ["real", *(f"{share:.0%}" for share in shares[1:-1]), "real"]
    blocks = [
        Block(name, [level[:, n] for level in levels], columns, resolutions(cascade))
        for n, name in enumerate(names)
    ]
    save_sheet(blocks, args.out)
    nats = torch.stack([cascade.drawn_log_prob(noises, ends[0]) for noises in way])
    bpd = bits_per_dim(nats, math.prod(cascade.shape))
    return [
        {"pair": n, "name": name, "share": share, "bpd": bpd[i, n].item()}
        for n, name in enumerate(names)
        for i, share in enumerate(shares)
    ]


def draw_walk(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    walked = walk(cascade, args.num, args.frames, None, args.temperature, args.seed)
    frames = torch.stack([images[-1] for images in walked])
    columns = math.ceil(math.sqrt(args.num))
    save_moving([grid(images, columns, WIDTH) for images in frames], args.out, PAUSE)
    steps = (frames.roll(-1, 0).int() - frames.int()).abs().double().flatten(1).mean(1)
    return [{"frame": i, "grey_levels_to_next": step} for i, step in enumerate(steps.tolist())]


def draw_neighbours(args: argparse.Namespace) -> list[Row]:
    cascade = load(args.runs[0], args)
    data = cascade.stages[-1].config.data
    training = open_data(cascade, None, data.split)
    held_out = open_data(cascade, args.data, args.split)
    real = cascade.resize(held_out.read(choose(held_out, HELD_OUT, args.seed)))
    usual = neighbours(cascade, real, training, NEAREST, data.flip)
    samples = cascade.sample(args.num, None, args.temperature, args.seed)
    result = neighbours(cascade, samples, training, NEAREST, data.flip)
    _show_neighbours(cascade, samples, training, result, usual, args.out)
    return [
        {"images": name, "number": n, "rank": k + 1, "distance": distance, "training_index": index}
        for name, near in (("samples", result), ("held out", usual))
        for n, pairs in enumerate(zip(near.distance.tolist(), near.index.tolist(), strict=True))
        for k, (distance, index) in enumerate(zip(*pairs, strict=True))
    ]


def _show_neighbours(
    cascade: Cascade,
    samples: Tensor,
    training: ImageSource,
    nearest: Neighbours,
    usual: Neighbours,
    file: str,
) -> None:
    """The samples for which one training image stands out most, with their neighbours."""
    rows, captions = [], []
    for n in nearest.standing_out.argsort()[:SHOWN].tolist():
        rows.append([samples[n], *cascade.resize(training.read(nearest.index[n]))])
        captions.append(["", *(f"{distance:.1f}" for distance in nearest.distance[n].tolist())])
    middle = [near.distance[:, 0].quantile(0.5).item() for near in (nearest, usual)]
    least = [near.standing_out.min().item() for near in (nearest, usual)]
    title = (
        "nearest training images, and the rms difference in grey levels\n"
        f"nearest: median {middle[0]:.1f} (held-out images: {middle[1]:.1f}); "
        f"nearest / last: least {least[0]:.2f} ({least[1]:.2f})"
    )
    columns = ["sample", *(f"nearest {i + 1}" for i in range(len(rows[0]) - 1))]
    save_sheet([Block(title, rows, columns, captions=captions)], file)
