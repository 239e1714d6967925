"""Image files of records: found inside their folder, measured, decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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
    with _opened(path) as image:
        return image.convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the file's header; raises as `load_image` does, but for damage behind it."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
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
