"""The tab that looks at what is near a sample."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.utils.seeds import whole_number
from cascade.web import exploring
from cascade.web.drawing import picture, shown
from cascade.web.exploring import FRAMES, Samples
from cascade.web.model import Model
from cascade.web.tabs.controls import (
    gallery_box,
    picture_box,
    plain,
    seed_box,
    temperature_sliders,
)
from cascade.web.tabs.serving import HEAVY, LIGHT, answering
from stages import InputError

COUNT = 20  # samples to choose from
FIRST = (0, 1)  # chosen at first: this one, and that before it
SIDE = 320  # of one image as shown, pixels


def explore_tab(model: Model, cascade: Cascade) -> None:
    """Lay it out: samples to choose from, then three things to do with those chosen."""
    stages, classes = list(cascade.stages), cascade.classes
    sizes = [f"{stage.shape[1]}x{stage.shape[2]}" for stage in stages]
    samples, chosen = gr.State(None), gr.State(FIRST)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            temperatures = temperature_sliders(stages)
            seed = seed_box()
            button = gr.Button("Draw samples", variant="primary")
        with gr.Column(scale=3):
            gallery = gallery_box("Click a sample, and another", 7)
            said = gr.Markdown("No samples yet.")
    with gr.Row(visible=len(stages) > 1):
        with gr.Column(scale=1, min_width=240):
            kept = gr.Radio(sizes[:-1], value=sizes[0], label="Keep the sample's image of")
            count = gr.Slider(1, exploring.MOST, 8, step=1, label="Versions")
            redraw = gr.Button("Draw its details again")
        low = picture_box("Kept")
        others = picture_box("Versions", scale=2)
    with gr.Row():
        frames = gr.State(None)
        with gr.Column(scale=1, min_width=240):
            walk = gr.Button("Walk from the sample chosen before to this one")
            share = gr.Slider(1, FRAMES, 1, step=1, label="Step")
        frame = picture_box("On the way")
        strip = picture_box("The whole way", scale=2)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            number = gr.Radio(
                [(stage.name, i) for i, stage in enumerate(stages)], value=len(stages) - 1,
                label="Latents of",
            )  # fmt: skip
            side = gr.Slider(1, cascade.shape[1], cascade.shape[1] // 4, step=1, label="Side")
            gr.Markdown("Click the sample where its latents are to be drawn again.")
        whole = picture_box("Sample: click where")
        edited = picture_box("With a region drawn again")
        changed = picture_box("What changed")
    told = gr.Markdown()

    def draw(*settings: Any) -> list[Any]:
        *scales, start = settings
        labels = torch.arange(COUNT) * classes // COUNT if classes else None
        made = Samples(cascade.sample(COUNT, labels, scales, whole_number(start, "seed")), labels)
        return [
            made, FIRST, [shown(image, 96) for image in made.images], _said(cascade, made, FIRST),
            shown(made.images[0], SIDE), None, 1, *[None] * 6, "",
        ]  # fmt: skip

    def choose(made: Samples | None, pair: tuple[int, int], event: gr.SelectData) -> list[Any]:
        place = int(event.index)
        pair = (place, pair[0] if place != pair[0] else pair[1])
        return [pair, _said(cascade, _there(made), pair), shown(_there(made).images[place], SIDE)]

    def again(made: Samples | None, pair: tuple[int, int], *settings: Any) -> list[Any]:
        size, num, *scales, start = settings
        kept_image, images = exploring.other_versions(
            cascade, _there(made), pair[0], sizes.index(size), int(num), scales, start
        )
        return [shown(kept_image[0], SIDE), picture(images, 4)]

    def way(made: Samples | None, pair: tuple[int, int]) -> list[Any]:
        images = exploring.way(cascade, _there(made), pair[1], pair[0])
        return [images, 1, shown(images[0], SIDE), picture(images, FRAMES // 2)]

    def at(images: Tensor | None, step: float) -> Any:
        return None if images is None else shown(images[int(step) - 1], SIDE)

    def edit(
        made: Samples | None, pair: tuple[int, int], event: gr.SelectData, *settings: Any
    ) -> list[Any]:
        stage, wide, *scales, start = settings
        image = _there(made).images[pair[0]]
        times = max(1, round(SIDE / image.shape[2]))
        column, row = (int(place) // times for place in event.index)
        region = exploring.region_around(row, column, int(wide), cascade.shape)
        result = exploring.region_redrawn(
            cascade, _there(made), pair[0], int(stage), region, scales, start
        )[0]
        far = exploring.difference(image, result)
        return [shown(result, SIDE), exploring.as_colours(far, SIDE), _changes(far, region)]

    lock = model.lock
    button.click(
        answering(draw, lock), [*temperatures, seed],
        [
            samples, chosen, gallery, said, whole, frames, share, frame, strip, low, others, edited,
            changed, told,
        ], **HEAVY,
    )  # fmt: skip
    gallery.select(answering(choose), [samples, chosen], [chosen, said, whole], **LIGHT)
    redraw.click(
        answering(again, lock), [samples, chosen, kept, count, *temperatures, seed], [low, others],
        **HEAVY,
    )  # fmt: skip
    walk.click(answering(way, lock), [samples, chosen], [frames, share, frame, strip], **HEAVY)
    share.input(at, [frames, share], frame, **LIGHT)
    whole.select(
        answering(edit, lock), [samples, chosen, number, side, *temperatures, seed],
        [edited, changed, told], **HEAVY,
    )  # fmt: skip


def _there(samples: Samples | None) -> Samples:
    if samples is None:
        raise InputError("draw samples first")
    return samples


def _said(cascade: Cascade, samples: Samples, pair: tuple[int, int]) -> str:
    """Which samples are chosen, in words."""
    names = [f"{place + 1}" for place in pair]
    if samples.labels is not None:
        known = cascade.class_names
        names = [
            f"{name} ({plain(known[samples.labels[place]])})"
            for name, place in zip(names, pair, strict=True)
        ]
    return f"Chosen: sample {names[0]}; before it: sample {names[1]}."


def _changes(far: Tensor, region: Tensor) -> str:
    """What an edit changed, in words."""
    inside, outside = ((far[part] > 0).double().mean().item() for part in (region, ~region))
    outside = 0.0 if region.all() else outside
    largest = torch.max(far).item()
    return (
        f"{inside:.0%} of the pixels changed in the region, {outside:.0%} of those outside, "
        f"by up to {largest:.0f} grey levels (bright is most)."
    )
