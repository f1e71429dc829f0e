"""The tab that enlarges a photo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from cascade.photos.deviation import deviation
from cascade.web.enlarging import (
    MOST,
    SIDES,
    class_names,
    cubic,
    enlarging,
    factors,
    judgement,
    stages_for,
)
from cascade.web.exploring import as_colours
from cascade.web.model import Model
from cascade.web.tabs.controls import USUAL, gallery_box, picture_box, plain, seed_box
from cascade.web.tabs.serving import HEAVY, LIGHT, answering
from cascade.web.uploads import middle, open_photo
from stages import InputError

SIDE = 384  # of the map of deviations, pixels, about


def enlarge_tab(model: Model) -> None:
    """Lay it out."""
    doublers, names = model.doublers, class_names(model.doublers)
    pairs = gr.State(None)  # the cubic image, and the samples
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            file = gr.File(label="A photo", file_types=["image"], height=140)
            side = gr.Slider(*SIDES, 96, step=8, label="Pixels a side, taken from its middle")
            factor = gr.Radio(factors(doublers), value=2, label="Times as large")
            num = gr.Slider(1, MOST, 4, step=1, label="Samples")
            temperature = gr.Slider(0, 1.2, USUAL, step=0.05, label="Temperature")
            name = gr.Dropdown(names, label="Class", visible=bool(names))
            seed = seed_box()
            with gr.Row():
                button = gr.Button("Enlarge", variant="primary")
                stop = gr.Button("Stop")
            bar = gr.HTML()
        with gr.Column(scale=3):
            gr.Markdown("Cubic interpolation on the left, a sample on the right")
            slider = gr.ImageSlider(
                format="png", interactive=False, show_label=False, buttons=["download"]
            )
            gallery = gallery_box("Samples: click one to compare it", 8)
            spread = picture_box("How far samples differ")
            said = gr.Markdown()

    def enlarge(
        given: str | None, most: float, times: int, count: float, scale: float,
        label: str | None, start: int,
    ) -> Iterator[list[Any]]:  # fmt: skip
        if given is None:
            raise InputError("drop a photo first")
        photo, stages = middle(open_photo(given), int(most)), stages_for(doublers, int(times))
        smooth = cubic(stages, photo).picture
        made: list[Any] = []
        last: list[Any] = []
        keep = gr.skip()
        for step in enlarging(stages, photo, int(count), scale, start, label):
            progress = f'<progress max="{step.total}" value="{step.done}"></progress>'
            text = f"{progress} {step.done} of {step.total} tiles"
            if len(step.samples) == len(made):
                yield [text, keep, keep, keep, keep, keep]
                continue
            last = step.samples
            made.append(photo.enlarged(last[-1]).picture)
            first = (smooth, made[0]) if len(made) == 1 else keep
            yield [text, first, list(made), (smooth, list(made)), keep, keep]
        far = deviation(last)
        words = (
            f"{smooth.width}x{smooth.height} pixels. Samples differ by {far.mean():.1f} grey "
            f"levels in the mean, and by up to {far.max():.1f}, where the map is brightest. "
            + plain(judgement(stages, photo, label))
        )
        yield ["Done.", keep, keep, keep, as_colours(far, SIDE), words]

    def compare(both: tuple[Any, list[Any]] | None, event: gr.SelectData) -> Any:
        return gr.skip() if both is None else (both[0], both[1][int(event.index)])

    working = button.click(
        answering(enlarge, model.lock), [file, side, factor, num, temperature, name, seed],
        [bar, slider, gallery, pairs, spread, said], **HEAVY | {"show_progress": "hidden"},
    )  # fmt: skip
    stopping = stop.click(None, cancels=[working], api_visibility="private")
    stopping.then(lambda: "Stopped.", None, bar, **LIGHT)
    gallery.select(compare, pairs, slider, **LIGHT)
