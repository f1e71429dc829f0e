"""What is done in the latents of a super-resolution stage, in float64."""

import re

import pytest
import torch
from conftest import ROOT, chdir
from small_stages import small_stage, stage_folder
from test_upscaling import PYRAMIDS, photograph

from cascade import InputError
from cascade.photos.latent_editing import (
    blocks,
    content_transfer,
    decode,
    encode,
    normalised,
    region_transfer,
    restored,
)
from cascade.transforms.pyramid import halve
from stages.bijection import split_latents


@pytest.fixture(scope="module", params=PYRAMIDS)
def stage(request, tmp_path_factory):
    return small_stage(tmp_path_factory.mktemp("stages") / "srf2x", *PYRAMIDS[request.param])


@pytest.fixture(scope="module")
def onto() -> torch.Tensor:
    return photograph(48, 64)[None]


@pytest.fixture(scope="module")
def source(onto) -> torch.Tensor:
    texture = torch.randint(-20, 21, onto.shape, generator=torch.Generator().manual_seed(0))
    return (onto.flip(3) + texture).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def region() -> torch.Tensor:
    region = torch.zeros(48, 64, dtype=torch.bool)
    region[5:10, 6:15] = True
    return region


def channels_of(stage, noise):
    top, rest = split_latents(noise, stage.flow.levels, stage.flow.squeezed)
    return [top, *rest]


def test_encode_and_decode_are_inverse(stage, source):
    noise, low = encode(stage, source)
    assert noise.dtype == torch.float64 and noise.shape[0] == 1
    assert low.shape == (1, 3, 24, 32)
    assert torch.equal(decode(stage, noise, low), source)


def test_normalised(stage, source):
    noise, _ = encode(stage, source)
    found = normalised(stage.flow, noise, 0.7)
    assert found.shape == noise.shape
    for z in channels_of(stage, found):
        torch.testing.assert_close(z.mean((2, 3)), torch.zeros_like(z[:, :, 0, 0]))
        torch.testing.assert_close(z.std((2, 3), correction=0), torch.full_like(z[:, :, 0, 0], 0.7))
    torch.testing.assert_close(normalised(stage.flow, found, 0.7), found)
    torch.testing.assert_close(normalised(stage.flow, 3 * noise + 1, 0.7), found)


def test_normalising_constant_latents_is_finite(stage):
    noise, _ = encode(stage, photograph(4, 4)[None])  # one place at the coarsest level
    assert normalised(stage.flow, noise).isfinite().all()


@pytest.mark.parametrize("transfer", [content_transfer, region_transfer])
def test_a_transfer_of_nothing_is_the_identity(stage, onto, source, region, transfer):
    assert torch.equal(transfer(stage, onto, source, torch.zeros_like(region)), onto)
    assert torch.equal(transfer(stage, onto, onto, region), onto)


@pytest.mark.parametrize("transfer", [content_transfer, region_transfer])
def test_a_transfer_changes_the_region_and_nothing_far_from_it(
    stage, onto, source, region, transfer
):
    made = transfer(stage, onto, source, region)
    changed = (made != onto).any(1)[0]
    assert changed[region].double().mean() > 0.5
    assert not changed[44:, 60:].any()
    if stage.config.model.pyramid == "haar":
        assert torch.equal(halve(made, kind="haar"), halve(onto, kind="haar"))


def test_latents_outside_the_region_stay(stage, onto, source, region):
    kept, low = encode(stage, onto)
    moved, _ = encode(stage, source)
    inside = blocks(stage, region)
    assert inside.shape == kept.shape[2:]
    mixed = torch.where(inside, moved, kept)
    assert torch.equal(region_transfer(stage, onto, source, region), decode(stage, mixed, low))
    for z in channels_of(stage, inside.expand_as(kept)):  # a place is in with all its channels
        assert torch.equal(z.all(1), z.any(1))
    finest = inside.repeat_interleave(48 // len(inside), 0).repeat_interleave(48 // len(inside), 1)
    assert finest[region].all() and finest.sum() == 8 * 12


def test_restored(stage, source):
    noise, low = encode(stage, source)
    made = restored(stage, source, 0.0)
    assert torch.equal(made, decode(stage, torch.zeros_like(noise), low))
    warm = restored(stage, source, 0.5)
    expected = decode(stage, normalised(stage.flow, noise, 0.5), low)
    assert torch.equal(warm, expected) and not torch.equal(warm, made)


def test_wrong_inputs(stage, onto, source, region):
    for call, says in (
        (lambda: encode(stage, onto[:, :, :47]), "sides divisible by 4"),
        (lambda: encode(stage, onto.float()), "takes uint8 images"),
        (lambda: encode(stage, onto[0]), "takes uint8 images"),
        (lambda: region_transfer(stage, onto, source[:, :, :8], region), "images differ"),
        (lambda: content_transfer(stage, onto, source, region[:8]), "a region is bool (48, 64)"),
        (lambda: content_transfer(stage, onto, source, region.int()), "a region is bool (48, 64)"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert says in str(error.value)


def test_the_examples_of_the_page_run(tmp_path):
    stage_folder(tmp_path / "runs" / "photos" / "srf2x")
    (tmp_path / "docs").mkdir()
    page = (ROOT / "docs" / "latent.md").read_text()
    script = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    with chdir(tmp_path):
        exec(compile(script, "docs/latent.md", "exec"), {})
    assert list((tmp_path / "docs").glob("*.png"))
