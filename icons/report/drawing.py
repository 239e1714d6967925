"""The look of every figure: sizes, colours, and one drawing as SVG for the page, SVG and PNG for a paper.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; nothing is told by colour alone. On the page the
colours below are replaced by variables of its style sheet, so that a figure follows light and dark mode.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icons.report.legend import Key, add_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 8.0, 3.6
"""Inches: for a desk and for a phone, with the same size of letters."""
TEXT, COLUMN = 6.9, 3.3
"""Inches: the text of a paper in two columns, and one of them."""
PNG_DPI = 200

INK, MUTED, LINE, PAGE = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
ALL, CHOSEN, CUT = "#86909a", "#0072b2", "#d55e00"
"""What is in the data, what was chosen of it, and where the cut is."""

RING: Any = {
    "marker": "o",
    "markersize": 8.5,
    "markerfacecolor": PAGE,
    "markeredgecolor": ALL,
    "markeredgewidth": 1.8,
}
DOT: Any = {"marker": "o", "markersize": 5.2, "markerfacecolor": CHOSEN, "markeredgecolor": CHOSEN}
"""How a share of the data and one of the selection are drawn."""

_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAGE: "page", ALL: "all", CHOSEN: "chosen", CUT: "cut"}
_SETTINGS: Any = {
    "font.size": 8.5,
    "text.parse_math": False,  # names are the user's, and may hold a dollar sign
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # letters stay letters, as journals ask for
    "path.simplify": True,
}


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure, or a table of its own: the first column names its rows.

    `words` are the places of other columns that hold words and not numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = ()


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it: `draw` makes it for a width in inches, `caption` says what is to be seen.

    `keys` is its legend, which every file of it carries.
    """

    name: str
    title: str
    caption: str
    table: Table
    draw: Callable[[float], Figure]
    keys: Sequence[Key] = ()

    def drawn(self, width: float) -> Figure:
        """With the legend; `width` in inches."""
        figure = self.draw(width)
        add_legend(figure, self.keys)
        return figure


@dataclass(frozen=True)
class Rendered:
    """`wide` and `narrow` are SVG elements for a page; `svg`, `png`, `pdf` and `csv` (the numbers) are files.

    `pdfs` are as wide as the text of a paper in two columns and as one of them; empty where nobody asked for them.
    """

    wide: str
    narrow: str
    svg: bytes
    png: bytes
    csv: bytes
    pdfs: tuple[bytes, ...] = ()

    def files(self, name: str) -> dict[str, bytes]:
        """By their names."""
        pdfs = dict(zip((f"{name}.pdf", f"{name}-column.pdf"), self.pdfs, strict=False))
        return {f"{name}.svg": self.svg, f"{name}.png": self.png, f"{name}.csv": self.csv, **pdfs}


def render(shown: Shown, *, pdf: bool = False) -> Rendered:
    """`pdf` takes some tenths of a second a figure, for the subsets of its fonts."""
    with _drawing():
        wide = shown.drawn(WIDE)
        svg = _svg(wide, shown.name)
        png = io.BytesIO()
        wide.savefig(png, format="png", dpi=PNG_DPI, facecolor=PAGE, metadata={"Software": None})
        narrow = _svg(shown.drawn(NARROW), shown.name)
        pdfs = (_pdf(shown.drawn(TEXT)), _pdf(shown.drawn(COLUMN))) if pdf else ()
    on_page = _for_page(svg, shown.name, "wide"), _for_page(narrow, shown.name, "narrow")
    return Rendered(*on_page, svg, png.getvalue(), _csv(shown.table), pdfs)


def axes_in(
    figure: Figure, left: float, right: float, top: float, bottom: float, place: tuple[int, int] = (0, 1)
) -> Axes:
    """Axes with these margins in inches; `place` (n, of) makes them the n-th of so many equal parts side by side."""
    width, height = figure.get_size_inches()
    number, of = place
    part = width / of
    box = (
        (number * part + left) / width,
        bottom / height,
        (part - left - right) / width,
        (height - top - bottom) / height,
    )
    return figure.add_axes(box)


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Axes, *, grid: str = "") -> None:
    """No frame, no tick marks; `grid` "x" or "y" for lines across that axis."""
    from typing import Literal, cast

    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.patch.set_visible(False)
    if grid:
        axes.grid(axis=cast(Literal["x", "y"], grid))


def beside(axes: Axes, places: npt.NDArray[np.number], texts: Sequence[str], align: str = "center") -> None:
    """Writes a text for each height in the right margin."""
    for place, text in zip(places, texts, strict=True):
        axes.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va=align, color=MUTED,
        )  # fmt: skip


def tick_labels(axes: Axes, places: npt.NDArray[np.floating], labels: Sequence[str], room: float) -> None:
    """Under the axis; slanted where they would not fit side by side in `room` inches."""
    if fit(labels, room):
        axes.set_xticks(places, labels)
    else:
        size = min(8.5, 72 * room / len(labels) / 1.6)
        axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=max(6.5, size))


def fit(labels: Sequence[str], room: float) -> bool:
    return len(labels) * (0.1 + 0.066 * max(map(len, labels), default=0)) < room


def compact(count: int) -> str:
    """In as many letters as a narrow bar has room for: 980, 2.7k, 120k, 1.3M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.{0 if count >= 9.95 * unit else 1}f}{letter}"
    return str(count)


def clip(text: str, length: int) -> str:
    """Both ends of a long name: which of a family it is often stands at its end."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def label_width(labels: Sequence[str], most: float) -> float:
    """Inches that the longest of these labels takes, at most `most`."""
    return min(most, 0.2 + 0.068 * max(map(len, labels), default=0))


@contextmanager
def _drawing() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A name in a script that the PNG's font lacks; the page shows it in the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _pdf(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="pdf", facecolor=PAGE, metadata={"CreationDate": None, "Creator": None})
    return content.getvalue()


def _csv(table: Table) -> bytes:
    content = io.StringIO(newline="")
    csv.writer(content).writerows([table.head, *table.rows])
    return content.getvalue().encode("utf-8", "replace")


def _svg(figure: Figure, name: str) -> bytes:
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(content, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _for_page(svg: bytes, name: str, variant: str) -> str:
    """The element alone: ids of its own, colours as variables, size by the style sheet; one image to a reader."""

    def tag(match: re.Match[str]) -> str:
        """Only what stands in a tag is changed: between them stands the user's text."""
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-{variant}-", match[0])
        for color, variable in _VARIABLES.items():
            text = text.replace(color, f"var(--{variable})")
        return text

    text = svg.decode()
    text = text[text.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style\b.*?</style>", r"<!--.*?-->"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    head, _, rest = re.sub(r"<[^>]+>", tag, text).partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    label = f'role="img" aria-labelledby="title-{name} caption-{name}"'
    return f'<svg {box[0]} {label} xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'
