"""Controls that several tabs have."""

from __future__ import annotations

import re
from collections.abc import Sequence

import gradio as gr

from cascade.stage import Stage

USUAL = 0.8  # the temperature that sliders begin at


def plain(text: str) -> str:
    """The text in Markdown, where nothing of it is a mark: names come with a model, from anyone."""
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", " ".join(text.split()))


def seed_box() -> gr.Number:
    """Where a seed is given."""
    return gr.Number(0, label="Seed", precision=0, minimum=0)


def temperature_sliders(stages: Sequence[Stage]) -> list[gr.Slider]:
    """A slider a stage."""
    return [
        gr.Slider(0, 1.2, USUAL, step=0.05, label=f"Temperature of {stage.name}")
        for stage in stages
    ]


def picture_box(caption: str, scale: int = 1) -> gr.Image:
    """Where a picture is shown, lossless, below its caption, in a column of its own."""
    with gr.Column(scale=scale, min_width=160):
        gr.Markdown(plain(caption))
        return gr.Image(
            format="png", interactive=False, show_label=False, buttons=["download"],
            alt_text=caption,
        )  # fmt: skip


def gallery_box(caption: str, columns: int) -> gr.Gallery:
    """Where images stand of which one is clicked, below a caption."""
    gr.Markdown(plain(caption))
    return gr.Gallery(
        columns=columns, height="auto", format="png", allow_preview=False, interactive=False,
        show_label=False, buttons=[],
    )  # fmt: skip
