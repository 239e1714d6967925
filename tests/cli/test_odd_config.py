"""Config files that are hostile or absurd: one line with its place, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from icons.config_file import load_config
from icons.errors import UserError

GOOD = """output_dir: run
model: {base: ./model}
train: {data: train.json}
tasks:
  - {name: a, data: a.json}
"""


def bomb() -> str:
    lines, previous = ["a: &a [x, x, x, x, x, x, x, x, x]"], "a"
    for name in "bcdefghi":
        lines.append(f"{name}: &{name} [{', '.join(['*' + previous] * 9)}]")
        previous = name
    return "\n".join(lines) + "\n" + GOOD


ODD = {
    "aliases of aliases": (bomb(), "stands for more than 100,000 values"),
    "a list in itself": ("a: &a [*a]\n" + GOOD, "in themselves"),
    "a mapping in itself": ("a: &a {b: *a}\n" + GOOD, "in themselves"),
    "a month that is none": (GOOD + "x: 2026-13-45\n", "line 6: '2026-13-45' cannot be read as timestamp"),
    "no number": (GOOD + "x: !!int abc\n", "line 6: 'abc' cannot be read as int"),
    "digits without end": (GOOD + f"x: {'9' * 5000}\n", "line 6: a number of 5,000 characters"),
    "deep": (GOOD + f"x: {'[' * 2000}{']' * 2000}\n", "deep"),
    "an unknown tag": (GOOD + "x: !!python/object:os.system {}\n", "line 6: the tag"),
    "a list as a key": (GOOD + "? [a, b]\n: 1\n", "a list or mapping stands as a key"),
    "a zero character": (
        GOOD.replace("output_dir: run", 'output_dir: "a\\0b"'),
        "line 1: output_dir: no path can hold",
    ),
    "a long name": (GOOD.replace("train.json", "x" * 300), "line 3: train.data: no path can be so long"),
    "a long path": (GOOD.replace("./model", "/".join(["x" * 200] * 30)), "model.base: no path can be so long"),
    "half a character": (GOOD.replace("train.json", '"\\ud800"'), "train.data"),
    "not a number": (
        GOOD + "gradients: {checkpoint_weights: [.nan]}\n",
        "gradients.checkpoint_weights: expected a finite",
    ),
    "infinite": (GOOD + "selection: {percent: .inf}\n", "selection.percent: expected a finite number"),
    "nan in options": (GOOD + "selection: {options: {a: [{b: .nan}]}}\n", "selection.options: expected a finite"),
    "true for one": (GOOD + "gradients: {dim: true}\n", "gradients.dim: expected a number"),
    "yes for text": (GOOD.replace("name: a", "name: yes"), "tasks.0.name: expected text"),
    "19 digits": (
        GOOD + "gradients: {seed: 99999999999999999999}\n",
        "gradients.seed: expected a number of at most 18",
    ),
    "no memory has it": (GOOD + "gradients: {dim: 99999999999}\n", "gradients.dim: Input should be less than"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ODD)
def test_one_line_with_its_place(what: str, tmp_path: Path) -> None:
    text, words = ODD[what]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", ["[" * 500 + "]" * 500, "!!int abc", "&a [*a]", "9" * 1000, "{"])
def test_an_override_is_read_with_the_same_care(value: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    with pytest.raises(UserError, match="--set") as caught:
        load_config(path, [f"selection.percent={value}"])
    assert len(str(caught.value)) < 600


def test_anchors_and_merges_are_what_they_are_for(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD + "warmup: &w {epochs: 2, seed: 3}\nfinetune: {<<: *w, seed: 4}\n")
    config = load_config(path)
    assert (config.finetune.epochs, config.finetune.seed, config.warmup.seed) == (2, 4, 3)
