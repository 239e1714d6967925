"""Images of records, in files of their own or within another: found, measured, decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from icons.errors import BadRecordError, UserError
from icons.plain import in_line, quoted


class StoredImage(ABC):
    """An image whose bytes lie within another file. Equal where it is the same image, hashable, may be pickled."""

    @abstractmethod
    def content(self) -> bytes | Path:
        """The encoded bytes, or the image file that stands there instead; BadRecordError when they can't be read."""

    @abstractmethod
    def __str__(self) -> str:
        """Where it lies, as messages say it."""


ImageSource = Path | StoredImage


@dataclass(frozen=True)
class InlineImage(StoredImage):
    """A data URI in the place of a path, as OpenAI's messages have it."""

    uri: str

    def content(self) -> bytes:
        head, _, body = self.uri.partition(",")
        try:
            if not head.endswith(";base64"):
                raise ValueError("not in base64")
            return base64.b64decode(body, validate=True)
        except (ValueError, binascii.Error) as error:
            raise BadRecordError(f"image {quoted(self.uri, 60)} is no data URI that can be read ({error})") from None

    def __str__(self) -> str:
        return f"{self.uri[:40]} ({len(self.uri):,} characters)"


def image_source(folder: Path | None, name: str) -> ImageSource:
    """The image behind a record's `image`; a BadRecordError when its path would leave the image folder."""
    if name.startswith("data:"):
        return InlineImage(name)
    if re.match(r"[a-z][a-z0-9+]*://", name):
        raise BadRecordError(f"image {quoted(name)} is an address; images are read from files, fetch it before")
    return image_path(folder, name)


def image_path(folder: Path | None, name: str) -> Path:
    """The file behind a path relative to the image folder, or an absolute one inside it."""
    if folder is None:
        raise BadRecordError(f"image {quoted(name)}, but the config gives no images folder for this data file")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    outside = Path(name).is_absolute() and not Path(name).is_relative_to(folder)
    if ".." in parts or outside or (PurePosixPath(name).is_absolute() and not Path(name).is_absolute()):
        raise BadRecordError(f"image {quoted(name)} leaves the image folder {folder}; expected a path inside it")
    return folder / name


Check = Callable[[int, int, ImageSource], None]
"""Takes width and height in pixels, and raises BadRecordError for a size that is not to be decoded."""


def load_image(path: ImageSource, check: Check | None = None) -> Image.Image:
    """Decodes an image to RGB (alpha dropped, EXIF's orientation not looked at, both as LLaVA does).

    16 bits a channel become 8 by their upper half, where LLaVA's own reading makes them white. Raises BadRecordError
    when the file is missing, empty, truncated, no image, no regular file, of numbers whose range is unknown, or larger
    than Pillow's decompression limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89 megapixels).
    """
    with _opened(path) as image:
        if check is not None:
            check(*image.size, path)
        return _eight_bits(image, path).convert("RGB")


def image_size(path: ImageSource) -> tuple[int, int]:
    """Width and height in pixels from the file's header; raises as `load_image` does, but for damage behind it."""
    with _opened(path) as image:
        return image.size


def is_deep(path: ImageSource) -> bool:
    """Whether a file has more than 8 bits a channel, by its header; raises as `image_size` does."""
    with _opened(path) as image:
        return _has_deep_mode(image)


def require_paddable(width: int, height: int, path: ImageSource) -> None:
    """Raises BadRecordError when the square that padding makes of an image would hold more than MOST_PIXELS."""
    if max(width, height) ** 2 > MOST_PIXELS:
        raise BadRecordError(
            f"image {_shown(path)} is {width} x {height} pixels: padded to a square it would hold "
            f"{max(width, height) ** 2:,}, the most is {MOST_PIXELS:,}"
        )


def require_not_thin(width: int, height: int, path: ImageSource) -> None:
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


def _eight_bits(image: Image.Image, path: ImageSource) -> Image.Image:
    if not _has_deep_mode(image):
        return image
    if image.mode == "F" or not (image.mode.startswith("I;16") or image.format == "PNG"):
        raise BadRecordError(
            f"image {_shown(path)} has pixels of mode {image.mode}, whose range is unknown; convert it to 8 bits"
        )
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _why(error: Exception) -> str:
    return in_line(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)


def _shown(path: ImageSource) -> str:
    return quoted(str(path), 300)


@contextmanager
def _opened(path: ImageSource) -> Iterator[Image.Image]:
    try:
        where = path.content() if isinstance(path, StoredImage) else path
        if isinstance(where, Path) and not stat.S_ISREG(where.stat().st_mode):
            raise BadRecordError(f"image {_shown(path)} is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(where) if isinstance(where, bytes) else where) as image:
                yield image
    except BadRecordError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadRecordError(f"image {_shown(path)} does not exist") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise BadRecordError(f"image {_shown(path)} is a decompression bomb (over {limit:,} pixels)") from None
    except UnidentifiedImageError:
        size = len(where) if isinstance(where, bytes) else where.stat().st_size
        raise BadRecordError(f"image {_shown(path)} is {'not an image' if size else 'an empty file'}") from None
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise BadRecordError(f"image {_shown(path)} cannot be decoded ({_why(error)})") from None
