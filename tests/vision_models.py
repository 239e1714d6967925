"""Small random models of other architectures, written as their makers publish them: weights, tokenizer, processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from icons.models.tiny import train_tokenizer

WORDS = (
    "The circle is red and the square on the left is blue. How many are there? Yes, no, one, two, three. What is it?"
)

CHATML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|im_start|>system\n"
    "You help.<|im_end|>\n{% endif %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
    "{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %} {{ part.text }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] "
    "{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {{ message.content[0].text | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


def tokenizer(folder: Path, *added: str, template: str) -> Any:
    """A Llama-style tokenizer with further special tokens, written with its chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer([WORDS], vocab=700),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
    )
    made.add_tokens(list(added), special_tokens=True)
    made.chat_template = template
    made.save_pretrained(folder)
    return made


def text_settings(made: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(made),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    } | more


def qwen2_vl(folder: Path) -> None:
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    made = tokenizer(folder, "<|im_start|>", "<|im_end|>", *marks, template=CHATML)
    start, end, image, video = made.convert_tokens_to_ids(marks)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config=text_settings(made, rope_parameters=rope),
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )  # fmt: skip
    write(folder, Qwen2VLForConditionalGeneration, config)
    size = {"shortest_edge": 8 * 8 * 4, "longest_edge": 8 * 8 * 30}
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size).save_pretrained(folder)
    describe(folder, "Qwen2VLProcessor")


def idefics3(folder: Path) -> None:
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    made = tokenizer(folder, "<|im_start|>", *marks[1:], *tiles, template=IDEFICS)
    config = Idefics3Config(
        text_config={"model_type": "llama"} | text_settings(made),
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 32, "patch_size": 8,
        },
        scale_factor=2,
        image_token_id=made.convert_tokens_to_ids("<image>"),
        pad_token_id=made.pad_token_id,
    )  # fmt: skip
    write(folder, Idefics3ForConditionalGeneration, config)
    Idefics3ImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}).save_pretrained(folder)
    describe(folder, "Idefics3Processor", image_seq_len=4)


def llava_next(folder: Path) -> None:
    made = tokenizer(folder, "[INST]", "[/INST]", template=MISTRAL)
    config = LlavaNextConfig(
        text_config={"model_type": "mistral"} | text_settings(made),
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "projection_dim": 32,
        },
        image_token_id=made.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
        image_seq_length=16,
    )  # fmt: skip
    write(folder, LlavaNextForConditionalGeneration, config)
    size = {"shortest_edge": 32}
    crop = {"height": 32, "width": 32}
    LlavaNextImageProcessorPil(
        size=size, crop_size=crop, image_grid_pinpoints=config.image_grid_pinpoints
    ).save_pretrained(folder)
    describe(
        folder,
        "LlavaNextProcessor",
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def text_llama(folder: Path) -> None:
    made = tokenizer(folder, "<|im_start|>", "<|im_end|>", template=CHATML)
    write(folder, LlamaForCausalLM, LlamaConfig(**text_settings(made)))


BUILDERS: dict[str, Callable[[Path], None]] = {
    "qwen2_vl": qwen2_vl,
    "idefics3": idefics3,
    "llava_next": llava_next,
    "llama": text_llama,
}


def write(folder: Path, kind: Any, config: Any) -> None:
    torch.manual_seed(0)
    kind(config).float().save_pretrained(folder)


def describe(folder: Path, processor: str, **settings: Any) -> None:
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor} | settings))
