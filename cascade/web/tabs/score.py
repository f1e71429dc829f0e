"""The tab that scores images."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cascade.chain import Cascade
from cascade.percentiles import Usual
from cascade.web.drawing import picture
from cascade.web.model import Model
from cascade.web.scoring import columns, save_maps, score, usual
from cascade.web.tabs.controls import picture_box, plain
from cascade.web.tabs.serving import HEAVY, answering, place_for
from cascade.web.uploads import open_images

ABOUT = (
    "Bits/dim of each image, of its WebP and PNG files, and the stages' shares of it, which add up "
    "to it. Percentile: how many per cent of {what} need no more bits. {statement}"
)
WIDTHS = {"image": 120, "bits/dim": 95, "percentile": 110, "classes": 130}  # of columns, pixels


def score_tab(model: Model, cascade: Cascade) -> None:
    """Lay it out."""
    _, height, width = cascade.shape
    named = columns(cascade)

    @cache
    def reference() -> Usual:
        return model.usual or usual(cascade, model.own)

    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            files = gr.File(
                label=f"Images, best of {width}x{height} pixels",
                file_count="multiple", file_types=["image"], height=180,
            )  # fmt: skip
            button = gr.Button("Score", variant="primary")
            about = gr.Markdown()
        with gr.Column(scale=3):
            table = gr.Dataframe(
                headers=named, column_widths=[WIDTHS.get(name, 72) for name in named],
                label="Bits", interactive=False, type="array", wrap=True,
            )  # fmt: skip
            seen = picture_box("As the model sees them")
            maps = picture_box("Where bits are spent")

    def scored(given: list[str] | None) -> list[Any]:
        images, changes = open_images(given, cascade.shape)
        images = cascade.resize(images)
        result = score(cascade, images)
        names = [Path(file).name for file in given or []]
        rows = result.rows(names, reference(), cascade.class_names)
        file = place_for("maps.png")
        save_maps(cascade, images, result.report, file)
        with Image.open(file) as opened:
            drawn = opened.copy()
        statement = plain(result.report.statement)
        text = ABOUT.format(what=plain(reference().what), statement=statement)
        return [rows, picture(images, 8), drawn, "\n\n".join([text, *changes])]

    button.click(answering(scored, model.lock), files, [table, seen, maps, about], **HEAVY)
