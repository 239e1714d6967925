"""Image files of records: found inside their folder, decoded, made ready for the vision tower."""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from icons.errors import BadRecordError


def image_path(folder: Path | None, name: str) -> Path:
    """The file behind a record's `image`; a BadRecordError when that path would leave the image folder."""
    if folder is None:
        raise BadRecordError(f"image {name!r}, but the config gives no images folder for this data file")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or Path(name).is_absolute():
        raise BadRecordError(f"image {name!r} leaves the image folder {folder}; expected a path inside it")
    return folder / name


def load_image(path: Path) -> Image.Image:
    """Decodes a file to RGB (alpha dropped, as LLaVA does).

    Raises BadRecordError when it is missing, empty, truncated, not an image, or larger than Pillow's decompression
    limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89 megapixels).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB")
    except FileNotFoundError:
        raise BadRecordError(f"image {str(path)!r} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise BadRecordError(f"image {str(path)!r} is a decompression bomb (over {limit:,} pixels)") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        raise BadRecordError(f"image {str(path)!r} is {'an empty file' if empty else 'not an image'}") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise BadRecordError(f"image {str(path)!r} cannot be decoded ({error})") from None


def pixel_values(image: Image.Image, image_processor: Any) -> npt.NDArray[np.float32]:
    """[3, height, width] float32 as the vision tower takes it: padded or cropped, resized, normalised."""
    processed: npt.NDArray[np.float32] = image_processor(images=[image], return_tensors="np")["pixel_values"][0]
    return processed
