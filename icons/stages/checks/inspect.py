"""`icons inspect`: one record as the model sees it."""

from __future__ import annotations

from icons.config import Config
from icons.data.conversation import parse_record
from icons.data.images import load_image
from icons.data.sets import open_records
from icons.data.tokens import IGNORE, IMAGE_ID, Tokens, expand_images
from icons.errors import BadRecordError, UserError
from icons.models.folders import model_folder
from icons.models.formats import input_format
from icons.plain import in_line
from icons.progress import say, say_json
from icons.stages.checks.in_run import in_run


def inspect_record(config: Config, row: int, task: str | None = None, as_json: bool = False) -> None:
    """Prints text, ids, labels and image size of one row; BadRecordError when a run could not use it."""
    section = config.train if task is None else config.task(task)
    records = open_records(section.parts)
    if not 0 <= row < len(records):
        raise UserError(f"--row {row}: {records.path} has rows 0 to {len(records) - 1}")
    record, inputs = records[row], input_format(model_folder(config.model.base), config.model)
    try:
        conversation = parse_record(record)
        prompt = inputs.render(conversation)
        (tokens,) = inputs.tokenise([prompt])
        names = conversation.images[: prompt.images]
        paths = [records.image(row, position, name) for position, name in enumerate(names)]
        ids = [inputs.image_ids(path) for path in paths]
        used, ends = expand_images(tokens, ids, inputs.max_length)
        images = [load_image(path, inputs.require_size) for path in paths]
    except BadRecordError as error:
        raise BadRecordError(f"{records.where(row, record)}: {error}") from None
    cut = len(tokens.ids) + sum(len(image_ids) - 1 for image_ids in ids) - len(used.ids)
    left = len(used.ids) - sum(len(image_ids) - 1 for image_ids in ids[: len(ends)])
    tokens = Tokens(tokens.ids[:left], tokens.labels[:left])
    sizes = [list(image.size) for image in images]
    if as_json:
        say_json({"input_ids": tokens.ids, "labels": tokens.labels, "image_sizes": sizes}, None)
        return
    say(records.where(row, record))
    for name, path, image in zip(names, paths, images, strict=True):
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in inputs.image_inputs(path).items())
        say(f"image: {in_line(name)}, {image.width} x {image.height} pixels, to the model as {shapes}")
    if not images:
        say("image: none")
    say(f"tokens: {len(used.ids)} ({sum(map(len, ids[: len(ends)]))} of images), {used.num_targets} predicted")
    if cut:
        say(f"max_length {inputs.max_length} cuts {cut} tokens off the end")
    say("text (what is predicted stands in [[ ]]):")
    say(_marked_text(tokens.ids, tokens.labels, inputs.tokenizer))
    say(f"input_ids: {tokens.ids}")
    say(f"labels: {tokens.labels}")
    if task is None:
        for line in in_run(config, row, records.sha256[:16]):
            say(line)


def _marked_text(ids: list[int], labels: list[int], tokenizer: object) -> str:
    text, start = "", 0
    while start < len(ids):
        stop = start + 1
        while stop < len(ids) and _kind(ids[stop], labels[stop]) == _kind(ids[start], labels[start]):
            stop += 1
        if ids[start] == IMAGE_ID:
            text += "<image>"
        else:
            piece = tokenizer.decode(ids[start:stop], skip_special_tokens=False)  # type: ignore[attr-defined]
            text += piece if labels[start] == IGNORE else f"[[{piece}]]"
        start = stop
    return text


def _kind(token: int, label: int) -> tuple[bool, bool]:
    return token == IMAGE_ID, label != IGNORE
