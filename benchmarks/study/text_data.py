"""The study's questions in words, for a language model: six tasks of short answers, and questions no task asks."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from icons.demo.skills import Scene, Skill, Turn
from study.data import Questions

TASKS = ("sum", "larger", "kind", "opposite", "next", "ending")
IRRELEVANT = ("vowels", "capital", "vowels", "backwards")

KINDS = {
    "an animal": ("trout", "fox", "heron", "beetle", "goat", "whale", "lizard", "crow", "otter", "moth", "badger"),
    "a plant": ("fern", "oak", "clover", "tulip", "moss", "birch", "cactus", "thistle", "ivy", "willow", "daisy"),
    "a tool": ("hammer", "chisel", "saw", "wrench", "pliers", "drill", "file", "shovel", "rake", "axe", "trowel"),
    "food": ("bread", "cheese", "soup", "porridge", "butter", "noodles", "stew", "jam", "omelette", "rice", "pancake"),
}
OPPOSITES = (
    ("early", "late"), ("hot", "cold"), ("open", "closed"), ("heavy", "light"), ("full", "empty"), ("old", "new"),
    ("fast", "slow"), ("wet", "dry"), ("loud", "quiet"), ("near", "far"), ("hard", "soft"), ("rich", "poor"),
    ("deep", "shallow"), ("strong", "weak"), ("wide", "narrow"), ("clean", "dirty"),
)  # fmt: skip
ROUNDS = (
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
     "December"),
)  # fmt: skip
WORDS = tuple(word for words in KINDS.values() for word in words)
CAPITALS = (("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Egypt", "Cairo"), ("Spain", "Madrid"),
            ("Peru", "Lima"), ("Kenya", "Nairobi"), ("Norway", "Oslo"))  # fmt: skip


def ask_sum(rng: Random) -> Turn:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    return Turn(f"What is {a} plus {b}?", str(a + b), tuple(str(a + b + off) for off in (-10, -2, -1, 0, 1, 2, 10)))


def ask_larger(rng: Random) -> Turn:
    a, b = rng.sample(range(10, 100), 2)
    return Turn(f"Which number is larger, {a} or {b}?", str(max(a, b)), (str(a), str(b)))


def ask_kind(rng: Random) -> Turn:
    kind = rng.choice(tuple(KINDS))
    return Turn(f"What is a {rng.choice(KINDS[kind])}: {', '.join(KINDS)}?", kind, tuple(KINDS))


def ask_opposite(rng: Random) -> Turn:
    word, answer = rng.sample(rng.choice(OPPOSITES), 2)
    return Turn(f"What is the opposite of '{word}'?", answer, tuple(w for pair in OPPOSITES for w in pair))


def ask_next(rng: Random) -> Turn:
    names = rng.choice(ROUNDS)
    at, step = rng.randrange(len(names)), rng.choice((1, 1, 2))
    what = "comes after" if step == 1 else "comes two after"
    return Turn(f"What {what} {names[at]}?", names[(at + step) % len(names)], names)


def ask_ending(rng: Random) -> Turn:
    word = rng.choice(WORDS)
    return Turn(f"What is the last letter of the word '{word}'?", word[-1], tuple(sorted({w[-1] for w in WORDS})))


def ask_vowels(rng: Random) -> Turn:
    word = rng.choice(WORDS)
    return Turn(f"How many vowels are in '{word}'?", str(sum(c in "aeiou" for c in word)), ("1", "2", "3", "4"))


def ask_capital(rng: Random) -> Turn:
    country, capital = rng.choice(CAPITALS)
    return Turn(f"What is the capital of {country}?", capital, tuple(city for _, city in CAPITALS))


def ask_backwards(rng: Random) -> Turn:
    word = rng.choice(WORDS)
    return Turn(f"Spell '{word}' backwards.", word[::-1], (word[::-1], word))


QUESTIONS: dict[str, Callable[[Random], Turn]] = {
    "sum": ask_sum, "larger": ask_larger, "kind": ask_kind, "opposite": ask_opposite, "next": ask_next,
    "ending": ask_ending, "vowels": ask_vowels, "capital": ask_capital, "backwards": ask_backwards,
}  # fmt: skip


def _skill(ask: Callable[[Random], Turn]) -> Skill:
    return lambda rng, turns: Scene((ask(rng),), None)


TEXT = Questions(TASKS, IRRELEVANT, {name: _skill(ask) for name, ask in QUESTIONS.items()})
