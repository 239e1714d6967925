"""Image files of records: found inside their folder, measured, decoded."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from icons.errors import BadRecordError
from icons.plain import in_line, quoted


def image_path(folder: Path | None, name: str) -> Path:
    """The file behind a record's `image`; a BadRecordError when that path would leave the image folder."""
    if folder is None:
        raise BadRecordError(f"image {quoted(name)}, but the config gives no images folder for this data file")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or Path(name).is_absolute():
        raise BadRecordError(f"image {quoted(name)} leaves the image folder {folder}; expected a path inside it")
    return folder / name


Check = Callable[[int, int, Path], None]
"""Takes width and height in pixels, and raises BadRecordError for a size that is not to be decoded."""


def load_image(path: Path, check: Check | None = None) -> Image.Image:
    """Decodes a file to RGB (alpha dropped, EXIF's orientation not looked at, both as LLaVA does).

    16 bits a channel become 8 by their upper half, where LLaVA's own reading makes them white. Raises BadRecordError
    when the file is missing, empty, truncated, no image, no regular file, of numbers whose range is unknown, or larger
    than Pillow's decompression limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89 megapixels).
    """
    with _opened(path) as image:
        if check is not None:
            check(*image.size, path)
        return _eight_bits(image, path).convert("RGB")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the file's header; raises as `load_image` does, but for damage behind it."""
    with _opened(path) as image:
        return image.size


def is_deep(path: Path) -> bool:
    """Whether a file has more than 8 bits a channel, by its header; raises as `image_size` does."""
    with _opened(path) as image:
        return _has_deep_mode(image)


def require_paddable(width: int, height: int, path: Path) -> None:
    """Raises BadRecordError when the square that padding makes of an image would hold more than MOST_PIXELS."""
    if max(width, height) ** 2 > MOST_PIXELS:
        raise BadRecordError(
            f"image {_shown(path)} is {width} x {height} pixels: padded to a square it would hold "
            f"{max(width, height) ** 2:,}, the most is {MOST_PIXELS:,}"
        )


def require_not_thin(width: int, height: int, path: Path) -> None:
    """Raises BadRecordError for an image whose sides differ so much that resizing one blows up the other."""
    if max(width, height) > THINNEST * min(width, height):
        raise BadRecordError(
            f"image {_shown(path)} is {width} x {height} pixels: one side is more than {THINNEST} times the other"
        )


MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
"""From which on Pillow, too, takes an image for an attack."""
THINNEST = 200
"""The most that Qwen's own processor takes."""


def _has_deep_mode(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    if not _has_deep_mode(image):
        return image
    if image.mode == "F" or not (image.mode.startswith("I;16") or image.format == "PNG"):
        raise BadRecordError(
            f"image {_shown(path)} has pixels of mode {image.mode}, whose range is unknown; convert it to 8 bits"
        )
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _why(error: Exception) -> str:
    return in_line(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)


def _shown(path: Path) -> str:
    return quoted(str(path), 300)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadRecordError(f"image {_shown(path)} is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except BadRecordError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadRecordError(f"image {_shown(path)} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise BadRecordError(f"image {_shown(path)} is a decompression bomb (over {limit:,} pixels)") from None
    except UnidentifiedImageError:
        empty = path.is_file() and path.stat().st_size == 0
        raise BadRecordError(f"image {_shown(path)} is {'an empty file' if empty else 'not an image'}") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise BadRecordError(f"image {_shown(path)} cannot be decoded ({_why(error)})") from None
