"""What the drawn set can ask: one function a skill, each giving a picture and questions with known answers.

A skill takes a random generator and the number of turns wanted and returns a `Scene`; it may give fewer turns.
`SKILLS` is the registry, one entry per target task. Coordinates are pixels, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw


@dataclass(frozen=True)
class Turn:
    """One question, its true answer, and every answer of the same kind (the true one among them)."""

    question: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A picture (None for a text-only instruction) and the questions asked about it."""

    turns: tuple[Turn, ...]
    image: Image.Image | None = None


Skill = Callable[[Random, int], Scene]
Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "Red": (220, 40, 40),
    "Green": (40, 170, 60),
    "Blue": (50, 80, 220),
    "Yellow": (245, 225, 40),
    "Purple": (150, 50, 190),
    "Orange": (245, 140, 30),
    "Black": (15, 15, 15),
    "White": (252, 252, 252),
}
SHAPES = ("Circle", "Square", "Triangle", "Diamond", "Cross", "Ring")
DIGITS = tuple("0123456789")
COUNTS = tuple("123456")
# segments of a seven-segment digit that are lit: top, upper left, upper right, middle, lower left, lower right, bottom
SEGMENTS = (
    "1110111",
    "0010010",
    "1011101",
    "1011011",
    "0111010",
    "1101011",
    "1101111",
    "1010010",
    "1111111",
    "1111011",
)
CANVASES = ((48, 48), (48, 48), (48, 48), (64, 48), (48, 64))


def background(rng: Random) -> Image.Image:
    """An RGB picture, square or not: plain, shaded from top to bottom, or striped, never near a palette colour."""
    width, height = rng.choice(CANVASES)
    gray = rng.randint(110, 185)
    first: Color = (gray + rng.randint(-12, 12), gray + rng.randint(-12, 12), gray + rng.randint(-12, 12))
    image = Image.new("RGB", (width, height), first)
    kind = rng.choice(("plain", "shaded", "striped"))
    if kind == "plain":
        return image
    draw = ImageDraw.Draw(image)
    period, change = rng.randint(4, 10), rng.choice((-24, 24))
    for y in range(height):
        step = change * y // height if kind == "shaded" else change * (y // period % 2)
        red, green, blue = first
        draw.line((0, y, width, y), fill=(red + step, green + step, blue + step))
    return image


def paint_shape(image: Image.Image, shape: str, center: tuple[int, int], radius: int, fill: Color) -> None:
    """Fill a shape in place; `radius` is half its height. Raises ValueError for a shape it does not know."""
    draw = ImageDraw.Draw(image)
    (x, y), r = center, radius
    if shape == "Circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "Square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "Triangle":
        draw.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=fill)
    elif shape == "Diamond":
        draw.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), fill=fill)
    elif shape == "Cross":
        arm = max(1, r // 3)
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
    elif shape == "Ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(2, r // 3))
    else:
        raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")


def paint_digit(image: Image.Image, digit: int, corner: tuple[int, int], size: tuple[int, int], fill: Color) -> None:
    """Draw a seven-segment digit in place, `corner` its upper left and `size` its width and height."""
    draw = ImageDraw.Draw(image)
    (left, top), (width, height) = corner, size
    right, bottom, middle = left + width - 1, top + height - 1, top + height // 2
    thick = max(2, width // 4)
    bars = (
        (left, top, right, top + thick - 1),
        (left, top, left + thick - 1, middle),
        (right - thick + 1, top, right, middle),
        (left, middle - thick // 2, right, middle - thick // 2 + thick - 1),
        (left, middle, left + thick - 1, bottom),
        (right - thick + 1, middle, right, bottom),
        (left, bottom - thick + 1, right, bottom),
    )
    for bar, lit in zip(bars, SEGMENTS[digit], strict=True):
        if lit == "1":
            draw.rectangle(bar, fill=fill)


def _paint_row(rng: Random, image: Image.Image, shapes: list[str], colors: list[str]) -> None:
    """Paint one shape in each of as many equal columns, somewhere inside its column."""
    column = image.width // len(shapes)
    for index, (shape, color) in enumerate(zip(shapes, colors, strict=True)):
        largest = column // 2 - 1
        radius = rng.randint(max(5, largest * 3 // 5), min(largest, 20))
        x = rng.randint(index * column + radius, (index + 1) * column - 1 - radius)
        y = rng.randint(radius, image.height - 1 - radius)
        paint_shape(image, shape, (x, y), radius, COLORS[color])


def _shapes_and_colors(rng: Random, count: int) -> tuple[list[str], list[str]]:
    return rng.sample(SHAPES, count), rng.sample(tuple(COLORS), count)


def draw_shape(rng: Random, turns: int) -> Scene:
    """One object a turn: what shape is it?"""
    image = background(rng)
    shapes, colors = _shapes_and_colors(rng, turns)
    _paint_row(rng, image, shapes, colors)
    if turns == 1:
        question = rng.choice(("What shape is shown in the picture?", "Which shape is drawn in the image?"))
        return Scene((Turn(question, shapes[0], SHAPES),), image)
    asked = zip(shapes, colors, strict=True)
    return Scene(tuple(Turn(f"What shape is the {c.lower()} object?", s, SHAPES) for s, c in asked), image)


def draw_colour(rng: Random, turns: int) -> Scene:
    """One object a turn: what colour is it?"""
    image = background(rng)
    shapes, colors = _shapes_and_colors(rng, turns)
    _paint_row(rng, image, shapes, colors)
    form = rng.choice(("What color is the {}?", "What is the color of the {}?"))
    asked = zip(shapes, colors, strict=True)
    return Scene(tuple(Turn(form.format(s.lower()), c, tuple(COLORS)) for s, c in asked), image)


def draw_count(rng: Random, turns: int) -> Scene:
    """One to six objects in a loose grid: how many of one kind, then of the other, then in all?"""
    image = background(rng)
    kinds, colors = _shapes_and_colors(rng, 1 if turns == 1 else 2)
    numbers = [rng.randint(1, 6)] if turns == 1 else [rng.randint(1, 3), rng.randint(1, 3)]
    members = [kind for kind, number in zip(range(len(kinds)), numbers, strict=True) for _ in range(number)]
    columns, rows = (3, 2) if image.width >= image.height else (2, 3)
    width, height = image.width // columns, image.height // rows
    for cell, kind in zip(rng.sample(range(6), len(members)), members, strict=True):
        radius = rng.randint(5, 7)
        # one pixel of every cell stays free, so that no two objects touch
        x = cell % columns * width + rng.randint(radius, width - 2 - radius)
        y = cell // columns * height + rng.randint(radius, height - 2 - radius)
        paint_shape(image, kinds[kind], (x, y), radius, COLORS[colors[kind]])
    asked = [
        Turn(f"How many {kind.lower()}{'es' if kind == 'Cross' else 's'} are there?", str(number), COUNTS)
        for kind, number in zip(kinds, numbers, strict=True)
    ]
    asked.append(Turn("How many shapes are there in all?", str(sum(numbers)), COUNTS))
    return Scene(tuple(asked[:turns]), image)


def draw_digit(rng: Random, turns: int) -> Scene:
    """One large black digit near the middle, or two side by side: which digit is it?"""
    image = background(rng)
    count = min(turns, 2)
    digits = rng.choices(range(10), k=count)
    column = image.width // count
    for index, digit in enumerate(digits):
        width, height = (26, 42) if count == 1 else (18, 36)
        left = index * column + (column - width) // 2 + rng.randint(-2, 2)
        top = (image.height - height) // 2 + rng.randint(-2, 2)
        paint_digit(image, digit, (left, top), (width, height), COLORS["Black"])
    questions = ["What digit is shown in the picture?"]
    if count == 2:
        questions = ["What is the digit on the left?", "What is the digit on the right?"]
    return Scene(tuple(Turn(q, str(d), DIGITS) for q, d in zip(questions, digits, strict=True)), image)


def draw_left_right(rng: Random, turns: int) -> Scene:
    """One object on one side of the picture, or two side by side: left or right?"""
    return _position(rng, turns, "Left", "Right", ("on the {}", "on the {}"), ("to the {} of", "to the {} of"))


def draw_above_below(rng: Random, turns: int) -> Scene:
    """One object in the upper or lower part of the picture, or two one over the other: above or below?"""
    return _position(rng, turns, "Above", "Below", ("{} the middle", "{} it"), ("{}", "{}"))


def _position(rng: Random, turns: int, low: str, high: str, alone: tuple[str, str], relative: tuple[str, str]) -> Scene:
    """`low` is the answer for the smaller coordinate (x for Left, y for Above); the forms take either word."""
    image = background(rng)
    shapes, colors = _shapes_and_colors(rng, 2)
    along, across = image.size if low == "Left" else image.size[::-1]
    objects = rng.choice((1, 2)) if turns == 1 else 2
    first_is_low = rng.random() < 0.5
    for index, is_low in enumerate((first_is_low, not first_is_low)[:objects]):
        radius = rng.randint(8, 11)
        offset = rng.randint(radius, along // 2 - 1 - radius) + (0 if is_low else along // 2)
        aside = rng.randint(radius, across - 1 - radius)
        center = (offset, aside) if low == "Left" else (aside, offset)
        paint_shape(image, shapes[index], center, radius, COLORS[colors[index]])
    words = low.lower(), high.lower()
    answers = (low, high) if first_is_low else (high, low)
    one, other = (shape.lower() for shape in shapes)
    if objects == 1:
        place = " or ".join(form.format(word) for form, word in zip(alone, words, strict=True))
        return Scene((Turn(f"Is the {one} {place}?", answers[0], (low, high)),), image)
    place = " or ".join(form.format(word) for form, word in zip(relative, words, strict=True))
    asked = (
        Turn(f"Is the {one} {place} the {other}?", answers[0], (low, high)),
        Turn(f"Is the {other} {place} the {one}?", answers[1], (low, high)),
    )
    return Scene(asked[:turns], image)


WORDS = ("red", "blue", "cat", "dog", "sun", "car", "tree", "book", "star", "moon", "fish", "bird")
SIDES = {"triangle": 3, "square": 4, "rectangle": 4, "hexagon": 6}
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven")


def draw_text(rng: Random, turns: int) -> Scene:
    """No picture: sums, copying or reversing a word, yes-or-no facts."""
    return Scene(tuple(rng.choice((_sum, _copy, _reverse, _fact))(rng) for _ in range(turns)))


def _sum(rng: Random) -> Turn:
    first, second = rng.randint(0, 9), rng.randint(0, 9)
    if rng.random() < 0.5:
        return Turn(f"What is {first} plus {second}?", str(first + second), tuple(map(str, range(19))))
    high, low = max(first, second), min(first, second)
    return Turn(f"What is {high} minus {low}?", str(high - low), DIGITS)


def _copy(rng: Random) -> Turn:
    word = rng.choice(WORDS)
    return Turn(f"Repeat the word {word}.", word, WORDS)


def _reverse(rng: Random) -> Turn:
    word = rng.choice(WORDS)
    return Turn(f"Write the word {word} backwards.", word[::-1], tuple(other[::-1] for other in WORDS))


def _fact(rng: Random) -> Turn:
    if rng.random() < 0.5:
        first, second = rng.sample(range(10), 2)
        return Turn(f"Is {first} greater than {second}?", "Yes" if first > second else "No", ("Yes", "No"))
    shape = rng.choice(tuple(SIDES))
    number = rng.choice((SIDES[shape], rng.randint(2, 7)))
    question = f"Does a {shape} have {NUMBER_WORDS[number - 2]} sides?"
    return Turn(question, "Yes" if number == SIDES[shape] else "No", ("Yes", "No"))


SKILLS: dict[str, Skill] = {
    "shape": draw_shape,
    "colour": draw_colour,
    "count": draw_count,
    "left_right": draw_left_right,
    "above_below": draw_above_below,
    "digit": draw_digit,
    "text": draw_text,
}
GROUPS = {"left_right": "position", "above_below": "position"}
