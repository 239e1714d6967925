"""A Llama tokenizer published as SentencePiece's `tokenizer.model` alone, as Vicuna's is, written as `tokenizer.json`.

The file is one protocol-buffer message (sentencepiece_model.proto): the pieces in the order of their ids, each with a
score and a kind, and how they were trained. Reading the few fields that count needs no further package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.errors import UserError

UNKNOWN, CONTROL, BYTE = 2, 3, 6
BPE = 2
SPACE = "▁"


@dataclass(frozen=True)
class Piece:
    """A token: its text, its score (of two possible merges the higher is made first), its kind."""

    text: str
    score: float
    kind: int


def write_tokenizer_json(model: Path, settings: dict[str, Any], out: Path) -> None:
    """Writes `out` from SentencePiece's file; `settings` is the content of tokenizer_config.json.

    Raises UserError when the file is damaged, or is not byte-pair encoding with bytes for what is unknown and without
    text normalization, which is what Llama's is.
    """
    pieces = read_pieces(model)
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    special = [number for number, piece in enumerate(pieces) if piece.kind in (UNKNOWN, CONTROL)]
    legacy = settings.get("legacy", True)
    prefix = {"type": "Prepend", "prepend": SPACE}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, pieces[number].text) for number in special],
        "normalizer": {"type": "Sequence", "normalizers": [prefix, spaces]} if legacy else None,
        "pre_tokenizer": None if legacy else metaspace,
        "post_processor": _ends(vocabulary, settings),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": next((piece.text for piece in pieces if piece.kind == UNKNOWN), None),
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges(pieces)],
        },
    }
    out.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a SentencePiece file in the order of their ids; a UserError when it is not of Llama's kind."""
    pieces, trained, normalized = [], 1, b""
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                fields: dict[int, Any] = {1: b"", 2: 0.0, 3: 1} | dict(_fields(value))
                pieces.append(Piece(fields[1].decode("utf-8"), fields[2], fields[3]))
            elif field == 2:
                trained = dict(_fields(value)).get(3, 1)
            elif field == 3:
                normalized = dict(_fields(value)).get(2, b"")
    except (OSError, ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} cannot be read as a SentencePiece model ({error})") from None
    bytes_known = sum(piece.kind == BYTE for piece in pieces)
    if trained != BPE or normalized or bytes_known != 256:
        raise UserError(f"{path} is not a tokenizer of Llama's kind: byte-pair encoding over all bytes, text as it is")
    return pieces


def merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the first to be merged first.

    SentencePiece merges the pair whose result scores highest. Kinds that it never merges to (unknown, control, bytes)
    are left out; several pairs with one result are in the order of their ids.
    """
    ids = {piece.text: number for number, piece in enumerate(pieces) if piece.kind not in (UNKNOWN, CONTROL, BYTE)}
    pairs: list[tuple[str, str]] = []
    for result in sorted(ids, key=lambda text: -pieces[ids[text]].score):
        splits = ((result[:at], result[at:]) for at in range(1, len(result)))
        pairs += sorted((s for s in splits if s[0] in ids and s[1] in ids), key=lambda s: (ids[s[0]], ids[s[1]]))
    return pairs


def _added(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **flags, "special": True}


def _ends(vocabulary: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
    """What is put before and behind every text: by default the first token alone."""

    def token(key: str, default: str) -> str:
        text = settings.get(key) or default
        return str(text["content"] if isinstance(text, dict) else text)

    first = [token("bos_token", "<s>")] if settings.get("add_bos_token", True) else []
    last = [token("eos_token", "</s>")] if settings.get("add_eos_token", False) else []

    def text(sequence: str, kind: int) -> list[dict[str, Any]]:
        def special(names: list[str]) -> list[dict[str, Any]]:
            return [{"SpecialToken": {"id": name, "type_id": kind}} for name in names]

        return [*special(first), {"Sequence": {"id": sequence, "type_id": kind}}, *special(last)]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": {t: {"id": t, "ids": [vocabulary[t]], "tokens": [t]} for t in first + last},
    }


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: int, float (fixed32), or the bytes of a string or an inner message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def taken(size: int) -> bytes:
        nonlocal at
        if at + size > len(message):
            raise ValueError("it ends in the middle")
        at += size
        return message[at - size : at]

    while at < len(message):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
        elif wire == 2:
            yield key >> 3, taken(varint())
        elif wire == 5:
            yield key >> 3, struct.unpack("<f", taken(4))[0]
        elif wire == 1:
            yield key >> 3, taken(8)
        else:
            raise ValueError(f"no field of kind {wire} is known")
