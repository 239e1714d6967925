"""What turns records into a model's inputs, from the files beside its weights; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, time
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from PIL import Image

from icons.config import ModelConfig
from icons.data.chat import predicts_the_end
from icons.data.conversation import IMAGE_TAG, parse_record
from icons.data.formats import ChatFormat, InputFormat, LlavaFormat
from icons.data.tokens import IMAGE_ID
from icons.data.vicuna import lead_of
from icons.errors import BadRecordError, UserError
from icons.models.foreign import reading, reason, require_own_code_only


def input_format(folder: Path, config: ModelConfig) -> InputFormat:
    """The format of `model.template` for a model folder; a UserError when the folder's files do not give one."""
    from transformers import AutoConfig

    if not config.trust_remote_code:
        require_own_code_only(folder)
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # of a foreign file: it may be anything
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.base: {folder} brings Python code of its own; read it, then set model.trust_remote_code: true"
            ) from None
        raise UserError(f"model.base: {folder}/config.json is not understood ({reason(error)})") from None
    with reading(f"model.base: the tokenizer, processor or config in {folder} cannot be used"):
        if config.template == "vicuna_v1":
            return _llava_format(folder, config, model_config)
        return _chat_format(folder, config, model_config)


def reads_images(model_config: Any) -> bool:
    """Whether Hugging Face has a vision-language class for a model's config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(model_config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _llava_format(folder: Path, config: ModelConfig, model_config: Any) -> LlavaFormat:
    if model_config.model_type != "llava":
        raise UserError(
            f"model.base: {folder} is a {model_config.model_type} model; template vicuna_v1 needs llava, "
            "template chat_template takes any"
        )
    tokenizer = _tokenizer(folder, config.trust_remote_code)
    vision = model_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    has_class_token = vision.model_type in {"clip_vision_model", "clip"}
    keeps_all = model_config.vision_feature_select_strategy == "full"
    return LlavaFormat(
        tokenizer=tokenizer,
        image_processor=_image_processor(folder, config.image_aspect_ratio == "pad"),
        image_token_id=model_config.image_token_id,
        num_image_tokens=patches + int(has_class_token and keeps_all),
        pad_token_id=_padding(tokenizer),
        max_length=config.max_length,
    )


def _chat_format(folder: Path, config: ModelConfig, model_config: Any) -> ChatFormat:
    if not reads_images(model_config):
        tokenizer = _tokenizer(folder, config.trust_remote_code)
        _require_template(folder, tokenizer.chat_template)
        render = _render(tokenizer, config.template_date)
        chat = ChatFormat(
            tokenizer=tokenizer,
            processor=None,
            render_messages=render,
            image_token_id=None,
            placeholder=None,
            end_tokens=_end_tokens(tokenizer),
            pad_token_id=_padding(tokenizer),
            max_length=config.max_length,
        )
        _require_the_tokenizers_ids(folder, chat)
        return replace(chat, warnings=_warnings(chat, with_parts=False))
    processor = _processor(folder, model_config.model_type, config.trust_remote_code)
    _require_template(folder, processor.chat_template)
    render = _render(processor, config.template_date)
    chat = ChatFormat(
        tokenizer=processor.tokenizer,
        processor=processor,
        render_messages=render,
        image_token_id=getattr(model_config, "image_token_id", None),
        placeholder=_placeholder(folder, processor, render),
        end_tokens=_end_tokens(processor.tokenizer),
        pad_token_id=_padding(processor.tokenizer),
        max_length=config.max_length,
    )
    chat = replace(chat, count=_counter(chat))
    if not all(_same_ids(folder, chat, turns, images) for turns, images in ONE_IMAGE):
        raise UserError(
            f"model.base: the processor in {folder} joins text and image tokens in a way that is not supported"
        )
    several = all(_same_ids(folder, chat, turns, images) for turns, images in SEVERAL_IMAGES)
    return replace(chat, one_image=not several, warnings=_warnings(chat, with_parts=True))


SMALL, LARGE = (40, 40), (420, 300)
ONE_IMAGE = [
    ([f"{IMAGE_TAG}\nWhat is this?", "A cat.", "And this?", "A dog."], [LARGE]),
    ([f"What is this? {IMAGE_TAG}", "A cat."], [SMALL]),
]
SEVERAL_IMAGES = [
    ([f"{IMAGE_TAG}{IMAGE_TAG}\nWhat are these?", "Cats."], [LARGE, SMALL]),
    ([f"{IMAGE_TAG} What is this?", "A cat.", f"And this? {IMAGE_TAG}", "A dog."], [SMALL, LARGE]),
]
"""Conversations whose ids are compared with those that the processor itself gives them, with their images' sizes."""


def _render(templated: Any, day: date) -> Callable[[list[dict[str, Any]]], str]:
    """The template's text of messages; one that asks for today's date is told `day`, on every machine and every day."""
    from transformers.utils import chat_template_utils

    template = templated.chat_template
    if isinstance(template, dict):
        template = template["default"]
    now = datetime.combine(day, time())
    compiled = chat_template_utils._compile_jinja_template(template)  # cached: what is set here is what is rendered
    compiled.globals["strftime_now"] = now.strftime

    def render(messages: list[dict[str, Any]]) -> str:
        text: str = templated.apply_chat_template(messages, tokenize=False, chat_template=template)
        return text

    return render


def _warnings(chat: ChatFormat, *, with_parts: bool) -> tuple[str, ...]:
    assert chat.render_messages is not None
    try:
        stops = predicts_the_end(chat.render_messages, chat.end_tokens, with_parts)
    except BadRecordError:
        return ()  # a template that refuses this conversation; records have their own messages
    if stops:
        return ()
    return (
        "the chat template ends an answer with no token of its own, so no end of an answer is predicted and a model "
        "that is trained on it does not learn to stop; use a template that writes the end-of-sequence token",
    )


def _require_the_tokenizers_ids(folder: Path, chat: ChatFormat) -> None:
    """Raises UserError unless a conversation gets the ids of the tokenizer's own `apply_chat_template`."""
    spoken = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A cat."}]
    conversation = parse_record({"conversations": spoken})
    try:
        (tokens,) = chat.tokenise([chat.render(conversation)])
    except BadRecordError as error:
        raise UserError(f"model.base: the chat template in {folder} cannot be used: {error}") from None
    messages = [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A cat."}]
    expected = chat.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    if tokens.ids != [int(token) for token in expected]:
        raise UserError(
            f"model.base: the tokenizer in {folder} joins its template's text in a way that is not supported"
        )


def _tokenizer(folder: Path, trusted: bool) -> Any:
    from transformers import AutoTokenizer

    with reading(f"model.base: {folder} has no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        lead_of(tokenizer)  # what is wrong with it shows when it is used
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise UserError(f"model.base: {folder} needs a fast tokenizer with an end-of-sequence token")
    return tokenizer


def _processor(folder: Path, model_type: str, trusted: bool) -> Any:
    """The model's processor without its video half, which would need torchvision, its images handled by Pillow.

    So pixels are the same whatever is installed.
    """
    import transformers
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    names = []
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        with suppress(OSError, ValueError, AttributeError, RecursionError):
            names.append(json.loads((folder / file).read_text(encoding="utf-8")).get("processor_class"))
    names.append(PROCESSOR_MAPPING_NAMES.get(model_type))
    name = next((name for name in names if isinstance(name, str)), None)
    processor_class: Any = getattr(transformers, name or "", None)
    if processor_class is None:
        raise UserError(f"model.base: {folder} has no processor that transformers knows for {model_type}")

    def get_attributes(cls: Any) -> list[str]:
        return [attribute for attribute in processor_class.get_attributes() if attribute != "video_processor"]

    def without_video(self: Any, *args: Any, **kwargs: Any) -> None:
        processor_class.__init__(self, *args, **{"video_processor": None, **kwargs})

    methods: dict[str, Any] = {"get_attributes": classmethod(get_attributes)}
    video = signature(processor_class.__init__).parameters.get("video_processor")
    if video is not None and video.default is Parameter.empty:
        methods["__init__"] = without_video
    still: Any = type(processor_class.__name__, (processor_class,), methods)
    with reading(f"model.base: the processor in {folder} cannot be loaded"):
        processor = still.from_pretrained(folder, trust_remote_code=trusted)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=trusted)
    if not processor.tokenizer.is_fast:
        raise UserError(f"model.base: {folder} needs a fast tokenizer")
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    return processor


def _require_template(folder: Path, template: Any) -> None:
    if isinstance(template, dict) and not isinstance(template.get("default"), str):
        raise UserError(
            f"model.base: {folder} has several chat templates ({', '.join(map(str, template))}) and none is `default`"
        )
    if not isinstance(template, str | dict):
        raise UserError(
            f"model.base: {folder} has no chat template (chat_template.jinja); template chat_template needs one"
        )


def _placeholder(folder: Path, processor: Any, render: Callable[[list[dict[str, Any]]], str]) -> str:
    """What the template writes for one image: the processor's image token, or the token that begins an image."""
    text = render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}])
    for name in ("image_token", "boi_token"):
        token = getattr(processor, name, None)
        if token is not None and text.count(str(token)) == 1:
            return str(token)
    raise UserError(f"model.base: the chat template in {folder} writes no image token for an image")


def _same_ids(folder: Path, chat: ChatFormat, turns: list[str], sizes: list[tuple[int, int]]) -> bool:
    """Whether a conversation gets the ids that the processor itself gives it."""
    spoken = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(turns)]
    conversation = parse_record({"images": ["x"] * len(sizes), "conversations": spoken})
    images = [Image.new("RGB", size) for size in sizes]
    try:
        prompt = chat.render(conversation)
    except BadRecordError as error:
        raise UserError(f"model.base: the chat template in {folder} cannot be used: {error}") from None
    (tokens,) = chat.tokenise([prompt])
    coming = iter(images)
    ids = [each for token in tokens.ids for each in (chat.ids_of_image(next(coming)) if token == IMAGE_ID else [token])]
    bos = chat.tokenizer.bos_token
    written = bool(bos and prompt.text.startswith(bos))
    # One list a text, as apply_chat_template gives them: some processors treat the images of one text otherwise.
    expected = chat.processor(text=[prompt.text], images=[images], add_special_tokens=not written)["input_ids"][0]
    return ids == [int(token) for token in expected]


def _counter(chat: ChatFormat) -> Callable[[int, int], int] | None:
    """The processor's own count of an image's tokens, where it has one and an image is that many times one token.

    It takes microseconds; the processor itself resizes an image to know.
    """

    def count(height: int, width: int) -> int:
        counts = chat.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        return int(counts["num_image_tokens"][0])

    try:
        for width, height in (SMALL, LARGE, (333, 97), (64, 500)):
            if chat.ids_of_image(Image.new("RGB", (width, height))) != [chat.image_token_id] * count(height, width):
                return None
    except Exception:  # none, or one that wants other arguments: it is a convenience
        return None
    return count


def _end_tokens(tokenizer: Any) -> list[str]:
    """Tokens that may close a turn: every added one, flagged special or not, the longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return sorted(
        added | {str(tokenizer.eos_token)} if tokenizer.eos_token else added, key=lambda text: (-len(text), text)
    )


def _padding(tokenizer: Any) -> int:
    padding: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return padding


def _image_processor(folder: Path, pad: bool) -> Any:
    """LLaVA's image processor: pad to a square with the mean colour (CLIP's own centre-crops instead), or not.

    The folder's processor gives the sizes, mean and deviation; the PIL class needs no torchvision.
    """
    from transformers import LlavaImageProcessorPil

    settings: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = content.get("image_processor", settings if name == "processor_config.json" else content)
    if not isinstance(settings, dict):
        raise UserError(f"model.base: the image processor's settings in {folder} are no object")
    if not settings:
        raise UserError(f"model.base: {folder} has no preprocessor_config.json or processor_config.json")
    processor_class = (
        "size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor",
        "do_resize", "do_center_crop", "do_rescale", "do_normalize",
    )  # fmt: skip
    return LlavaImageProcessorPil(**{key: settings[key] for key in processor_class if key in settings}, do_pad=pad)
