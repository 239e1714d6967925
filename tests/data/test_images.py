"""Image files: decoding, refusing, padding to a square with the mean colour."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from icons.config import ModelConfig
from icons.data.formats import LlavaFormat
from icons.data.images import image_path, image_size, load_image
from icons.errors import BadRecordError
from icons.models.formats import input_format


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def llava_format(folder: Path, **settings: Any) -> LlavaFormat:
    made = input_format(folder, ModelConfig(base=str(folder), **settings))
    assert isinstance(made, LlavaFormat)
    return made


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 32), (32, 32), (400, 100), (5, 90)])
def test_padding_is_llavas_square_with_the_mean_colour(size: tuple[int, int], tiny_model: Path, tmp_path: Path) -> None:
    made = llava_format(tiny_model)
    processor = made.image_processor
    image = noise(*size)
    side = max(size)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in processor.image_mean))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    target = processor.crop_size["height"]
    resized = np.asarray(square.resize((target, target), Image.Resampling.BICUBIC)).astype(np.float32) / 255
    expected = ((resized - processor.image_mean) / processor.image_std).transpose(2, 0, 1)
    image.save(tmp_path / "image.png")
    np.testing.assert_allclose(
        made.image_inputs(tmp_path / "image.png")["pixel_values"][0].numpy(), expected, atol=1e-5
    )


def test_square_crops_instead(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    noise(400, 100).save(path)
    cropped = llava_format(tiny_model, image_aspect_ratio="square").image_inputs(path)["pixel_values"]
    padded = llava_format(tiny_model).image_inputs(path)["pixel_values"]
    assert cropped.shape == padded.shape
    assert not np.allclose(cropped, padded)


def test_alpha_and_palettes_become_rgb(tmp_path: Path) -> None:
    noise(8, 8).convert("RGBA").save(tmp_path / "a.png")
    noise(8, 8).convert("P").save(tmp_path / "b.png")
    assert load_image(tmp_path / "a.png").mode == load_image(tmp_path / "b.png").mode == "RGB"


def test_the_size_comes_from_the_header(tmp_path: Path) -> None:
    noise(31, 17).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    assert image_size(tmp_path / "whole.png") == image_size(tmp_path / "half.png") == (31, 17)
    with pytest.raises(BadRecordError, match="does not exist"):
        image_size(tmp_path / "missing.png")


def test_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    noise(64, 64).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    bomb(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    wanted = {
        "missing": "does not exist",
        "empty": "is an empty file",
        "text": "is not an image",
        "half": "cannot be decoded",
        "bomb": "decompression bomb",
        "folder": "no regular file",
    }
    for name, words in wanted.items():
        with pytest.raises(BadRecordError, match=words):
            load_image(tmp_path / f"{name}.png")


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for read in (load_image, image_size):
        with pytest.raises(BadRecordError, match="no regular file"):
            read(tmp_path / "pipe.png")


@pytest.mark.parametrize(("size", "ratio"), [((60_000, 1), "pad"), ((1, 14_000), "pad"), ((300, 1), "square")])
def test_an_image_that_resizing_would_blow_up_is_refused(
    size: tuple[int, int], ratio: Literal["pad", "square"], tiny_model: Path, tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    with pytest.raises(BadRecordError, match=f"thin.png' is {size[0]} x {size[1]} pixels"):
        llava_format(tiny_model, image_aspect_ratio=ratio).image_inputs(tmp_path / "thin.png")
    Image.new("RGB", (300, 1)).save(tmp_path / "small.png")
    assert llava_format(tiny_model).image_inputs(tmp_path / "small.png")["pixel_values"].shape[0] == 1


def test_sixteen_bits_keep_their_upper_half(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (64, 1))
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(load_image(tmp_path / name))[..., 0], ramp >> 8)
    for name, values in {"i.tiff": ramp.astype(np.int32), "f.tiff": (ramp / 65535).astype(np.float32)}.items():
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(BadRecordError, match="whose range is unknown"):
            load_image(tmp_path / name)


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "a\\..\\..\\x.png"])
def test_a_path_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecordError, match="leaves the image folder"):
        image_path(tmp_path, name)


def test_an_image_without_a_folder_is_refused() -> None:
    with pytest.raises(BadRecordError, match="no images folder"):
        image_path(None, "a.png")
