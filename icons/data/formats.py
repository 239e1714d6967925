"""What turns a conversation and its images into a model's inputs: LLaVA-1.5's own way, or the model's chat template.

Both come from the files beside a model's weights (icons.models.formats) and need none of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from icons.data.chat import Render, render_chat, tokenise_chat
from icons.data.conversation import Conversation
from icons.data.images import ImageSource, image_size, load_image, require_not_thin, require_paddable
from icons.data.tokens import Prompt, Tokens
from icons.data.vicuna import render_vicuna, tokenise_vicuna
from icons.errors import BadRecordError
from icons.plain import in_line, quoted

ImageInputs = Mapping[str, Tensor]
"""One image as the model's forward pass takes it, by argument name; the first axis counts images, patches or tiles."""


class InputFormat(Protocol):
    """How records become ids, labels and image tensors for one model."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def image_token_id(self) -> int | None:
        """The id that image features take the place of; None for a model that reads text alone."""

    @property
    def pad_token_id(self) -> int: ...

    @property
    def max_length(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before they train on it."""

    def render(self, conversation: Conversation) -> Prompt:
        """The text and what of it is predicted; BadRecordError when the template cannot take the conversation."""

    def tokenise(self, prompts: Sequence[Prompt]) -> list[Tokens]:
        """Ids and labels of each, IMAGE_ID for an image."""

    def image_ids(self, path: ImageSource) -> Sequence[int]:
        """The ids that the image takes in the sequence, at most its header read."""

    def image_inputs(self, path: ImageSource) -> ImageInputs:
        """An image file as the model takes it; BadRecordError when it cannot be decoded, or would not fit in memory."""

    def require_size(self, width: int, height: int, path: ImageSource) -> None:
        """Raises BadRecordError for an image that the model's own resizing would make too large."""

    def for_images(self) -> InputFormat:
        """The same without the tokenizer: what a process needs that only decodes images."""


@dataclass(frozen=True)
class LlavaFormat:
    """LLaVA-1.5: Vicuna's template, one image of a fixed number of tokens, `pixel_values` [1, 3, H, W] float32."""

    tokenizer: Any
    image_processor: Any
    image_token_id: int
    num_image_tokens: int
    pad_token_id: int
    max_length: int
    warnings: tuple[str, ...] = ()

    def render(self, conversation: Conversation) -> Prompt:
        return render_vicuna(conversation, self.tokenizer.eos_token)

    def tokenise(self, prompts: Sequence[Prompt]) -> list[Tokens]:
        return tokenise_vicuna(prompts, self.tokenizer)

    def image_ids(self, path: ImageSource) -> Sequence[int]:
        return [self.image_token_id] * self.num_image_tokens

    def image_inputs(self, path: ImageSource) -> ImageInputs:
        image = load_image(path, self.require_size)
        pixels = self.image_processor(images=[image], return_tensors="np")["pixel_values"]
        return {"pixel_values": torch.from_numpy(np.ascontiguousarray(pixels))}

    def require_size(self, width: int, height: int, path: ImageSource) -> None:
        (require_paddable if self.image_processor.do_pad else require_not_thin)(width, height, path)

    def for_images(self) -> LlavaFormat:
        return replace(self, tokenizer=None)


@dataclass(frozen=True)
class ChatFormat:
    """Any other model: its processor's chat template, number of image tokens and image tensors.

    `processor` is None for a model that reads text alone. How many tokens an image takes depends on its size alone:
    `count` tells it (of height and width) where the processor can, else it is asked once for each size, with an empty
    image. With `one_image` a record may show one alone, as the processor treats several in a way of its own.
    """

    tokenizer: Any
    processor: Any
    render_messages: Render | None
    image_token_id: int | None
    placeholder: str | None  # what the template writes for an image
    end_tokens: Sequence[str]  # one of them closes a turn
    pad_token_id: int
    max_length: int
    count: Callable[[int, int], int] | None = None
    one_image: bool = False
    warnings: tuple[str, ...] = ()
    _ids_by_size: dict[tuple[int, int], list[int]] = field(default_factory=dict, repr=False, compare=False)

    def render(self, conversation: Conversation) -> Prompt:
        assert self.render_messages is not None
        if self.one_image and len(conversation.images) > 1:
            raise BadRecordError(
                f"{len(conversation.images)} images; this model's processor treats several in a way that is not "
                "supported, one a record is"
            )
        return render_chat(conversation, self.render_messages, self.end_tokens, self.placeholder)

    def tokenise(self, prompts: Sequence[Prompt]) -> list[Tokens]:
        return tokenise_chat(prompts, self.tokenizer, self.placeholder)

    def image_ids(self, path: ImageSource) -> Sequence[int]:
        size = image_size(path)
        self.require_size(*size, path)
        if size not in self._ids_by_size:
            try:
                self._ids_by_size[size] = self.ids_of_image(Image.new("RGB", size))
            except ValueError as error:  # such as a refusal of very long and thin images
                raise BadRecordError(
                    f"image {quoted(str(path), 300)} is refused by the processor ({in_line(error, 200)})"
                ) from None
        return self._ids_by_size[size]

    def ids_of_image(self, image: Image.Image) -> list[int]:
        """The ids that the processor puts in the place of an image."""
        if self.count is not None and self.image_token_id is not None:
            return [self.image_token_id] * self.count(image.height, image.width)
        encoded = self.processor(text=[self.placeholder], images=[image], add_special_tokens=False)
        return [int(token) for token in encoded["input_ids"][0]]

    def require_size(self, width: int, height: int, path: ImageSource) -> None:
        require_not_thin(width, height, path)
        require_paddable(width, height, path)

    def image_inputs(self, path: ImageSource) -> ImageInputs:
        image = load_image(path, self.require_size)
        # The processor's own call: its settings for images are not all its image processor's.
        encoded = self.processor(text=[self.placeholder], images=[image], add_special_tokens=False, return_tensors="pt")
        of_text = {*self.processor.tokenizer.model_input_names, "mm_token_type_ids", "token_type_ids"}
        return {name: value for name, value in encoded.items() if name not in of_text}

    def for_images(self) -> ChatFormat:
        return replace(self, tokenizer=None, render_messages=None)
