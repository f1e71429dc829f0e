"""The tab that draws samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gradio as gr

from cascade.chain import Cascade
from cascade.web.drawing import MOST, drawn_stages, labels_in_rows, picture, save_npz
from cascade.web.model import Model
from cascade.web.tabs.controls import picture_box, seed_box, temperature_sliders
from cascade.web.tabs.serving import HEAVY, answering, place_for


def draw_tab(model: Model, cascade: Cascade) -> None:
    """Lay it out."""
    stages, names = list(cascade.stages), cascade.class_names
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            classes = gr.Dropdown(
                names, multiselect=True, label="Classes (all, if none is chosen)",
                visible=bool(names),
            )  # fmt: skip
            each = gr.Slider(
                1, 16 if names else 64, max(1, min(4, MOST // len(names))) if names else 16, step=1,
                label="Images of each class" if names else "Images",
            )  # fmt: skip
            temperatures = temperature_sliders(stages)
            seed = seed_box()
            button = gr.Button("Draw", variant="primary")
            stop = gr.Button("Stop")
        with gr.Column(scale=3), gr.Row():
            pictures = [
                picture_box(f"{stage.name}: {stage.shape[1]}x{stage.shape[2]}") for stage in stages
            ]
    with gr.Row():
        png = gr.DownloadButton("Images as PNG", interactive=False)
        npz = gr.DownloadButton("Images as npz", interactive=False)

    def draw(chosen: list[str], count: float, *settings: Any) -> Iterator[list[Any]]:
        *scales, number = settings
        labels = labels_in_rows(cascade, chosen or [], int(count))
        num = int(count) if labels is None else len(labels)
        columns = int(count) if names else math.ceil(math.sqrt(num))
        rows = [names[label] for label in labels[:: int(count)]] if labels is not None else []
        shown: list[Any] = [None] * len(stages)
        levels: list[Any] = []
        unmade = [gr.update(value=None, interactive=False)] * 2
        yield [*shown, *unmade]
        for images in drawn_stages(cascade, num, labels, scales, number):
            shown[len(levels)] = picture(images, columns, rows)
            levels.append(images)
            yield [*shown, *unmade]
        files = [place_for("samples.png"), place_for("samples.npz")]
        shown[-1].save(files[0])
        save_npz(levels, labels, files[1])
        yield [*shown, *(gr.update(value=str(file), interactive=True) for file in files)]

    drawing = button.click(
        answering(draw, model.lock), [classes, each, *temperatures, seed], [*pictures, png, npz],
        **HEAVY,
    )  # fmt: skip
    stop.click(None, cancels=[drawing], api_visibility="private")
