"""A complete LLaVA folder small enough for a laptop: same classes, same files, same tokenizer rules, no network."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from icons.models.card import complete

TEXT = "A LLaVA small enough for a laptop, with random weights: for trying programs out, not for answers."

# Their ids are their places in this tuple; the 256 byte pieces follow, then characters, then merges.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
MAX_POSITIONS = 4096


@dataclass(frozen=True)
class TinySize:
    """The widths and depths of a tiny LLaVA; pixels for the image and the patch, pieces for the vocabulary."""

    text_hidden: int
    text_intermediate: int
    text_layers: int
    text_heads: int
    vocab: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    image_size: int
    patch_size: int

    def __post_init__(self) -> None:
        """Raises ValueError for a size that the architecture cannot have."""
        if self.vision_layers < 2:
            raise ValueError("vision_layers must be at least 2: LLaVA reads the layer before the last")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.text_hidden % (2 * self.text_heads) or self.vision_hidden % self.vision_heads:
            raise ValueError("a hidden size must be a multiple of its heads (for the text, of twice its heads)")
        if self.vocab < 512:
            raise ValueError("vocab must be at least 512: specials, 256 byte pieces and the characters come first")

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the sequence (the class token is not one of them)."""
        return (self.image_size // self.patch_size) ** 2


TINY = TinySize(
    text_hidden=128,
    text_intermediate=344,
    text_layers=2,
    text_heads=4,
    vocab=1500,
    vision_hidden=96,
    vision_layers=3,
    vision_heads=4,
    image_size=48,
    patch_size=12,
)
BENCHMARK = TinySize(
    text_hidden=256,
    text_intermediate=688,
    text_layers=4,
    text_heads=8,
    vocab=1500,
    vision_hidden=128,
    vision_layers=4,
    vision_heads=4,
    image_size=64,
    patch_size=8,
)


def build_tiny_llava(folder: Path, *, texts: Iterable[str] | None = None, size: TinySize = TINY, seed: int = 0) -> None:
    """Write a Hugging Face LLaVA with random float32 weights: config, weights, processor and tokenizer.

    `texts` trains the tokenizer (default: a small built-in English corpus); the model's vocabulary is exactly
    the tokenizer's, at most `size.vocab`. The same arguments give the same bytes. The caller's random state is
    left alone. Files of the same names in `folder` are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _wrap_tokenizer(train_tokenizer(_builtin_texts() if texts is None else texts, vocab=size.vocab))
    config = _config(size, vocab=len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).to(torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("position_embedding.weight"):
                # CLIP's 0.02 drowns in the patches, and "where" would take many epochs to learn.
                torch.nn.init.normal_(parameter, std=0.3)
    with _no_progress_bar():
        model.generation_config.pad_token_id = SPECIAL_TOKENS.index("<pad>")
        model.save_pretrained(folder)
    complete(folder, _processor(size, tokenizer), how=f"`icons tiny-model`, seed {seed}", text=TEXT)
    # safetensors creates its file for the owner alone; give it the mode of its neighbours
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> Tokenizer:
    """A Llama-style BPE tokenizer of at most `vocab` pieces, trained on `texts`.

    Byte fallback, `<s>` in front, and the word boundary only ever at the start of a piece; digits and
    punctuation stand alone and a line feed is the byte piece <0x0A>, as in Llama's own vocabulary.
    """
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(BPE(unk_token=SPECIAL_TOKENS[0], fuse_unk=True, byte_fallback=True))
    learner.normalizer = normalizer
    # For learning only. Llama's tokenizer cuts nothing before BPE: what no merge crosses here is never crossed.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "removed"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    reserved = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(
        vocab_size=vocab,
        min_frequency=1,
        show_progress=False,
        special_tokens=reserved,
        initial_alphabet=["▁", *string.ascii_letters, *string.digits, *string.punctuation],
        limit_alphabet=vocab // 4,
    )
    learner.train_from_iterator(texts, trainer)
    # The trainer marks every reserved piece special; a byte piece must be an ordinary one, so start afresh.
    learned: dict[str, Any] = json.loads(learner.to_str())["model"]
    tokenizer = Tokenizer(
        BPE(
            vocab=learned["vocab"],
            merges=[(left, right) for left, right in learned["merges"]],
            unk_token=SPECIAL_TOKENS[0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer = normalizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", SPECIAL_TOKENS.index("<s>"))]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _wrap_tokenizer(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=MAX_POSITIONS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _config(size: TinySize, *, vocab: int) -> Any:
    ids = {token.strip("<>"): index for index, token in enumerate(SPECIAL_TOKENS)}
    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=size.text_hidden,
        intermediate_size=size.text_intermediate,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        num_key_value_heads=size.text_heads,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        # Llama's 0.02 suits a width of 4096; at these widths it leaves every layer almost silent for an epoch.
        initializer_range=round(size.text_hidden**-0.5, 4),
        bos_token_id=ids["s"],
        eos_token_id=ids["/s"],
        pad_token_id=ids["pad"],
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=size.vision_hidden,
        intermediate_size=4 * size.vision_hidden,
        projection_dim=size.vision_hidden,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=size.image_size,
        patch_size=size.patch_size,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["image"],
        image_seq_length=size.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=ids["pad"],
        tie_word_embeddings=False,
        dtype="float32",
    )


def _processor(size: TinySize, tokenizer: Any) -> Any:
    pixels = size.image_size
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": pixels},
        crop_size={"height": pixels, "width": pixels},
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=size.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _builtin_texts() -> Iterator[str]:
    """Prompts and answers of the demo, each many times, then common words: frequent ones become one piece."""
    for _ in range(20):
        yield from _PROMPTS
        for word in _ANSWERS.split():
            yield f"{word} {word.lower()} the {word.lower()}s ASSISTANT: {word}"
    shuffled = random.Random(0)
    words = _COMMON_WORDS.split()
    for _ in range(4):
        shuffled.shuffle(words)
        yield " ".join(words)
    yield " ".join(word.capitalize() for word in words)


_PROMPTS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: \n",
    "USER: \nWhat color is the shape?\nAnswer the question using a single word or phrase. ASSISTANT:",
    "USER: \nWhat shape is shown in the picture?\nAnswer the question using a single word or phrase. ASSISTANT:",
    "USER: \nHow many circles are there in the image?\nAnswer with the option's letter from the given choices.",
    "USER: \nIs the square on the left or on the right of the picture? Is it above or below? Which side?",
    "USER: \nWhich digit is drawn? What number does the image show? Read the digit. Count the objects.",
    "USER: What is one plus two? What is seven minus three? Repeat the word. Write the word backwards. True?",
    "USER: Describe the image in detail. Provide a short description for this region. What is the object?",
)

_ANSWERS = """
Circle Square Triangle Diamond Star Cross Ring Rectangle Oval Heart Hexagon Red Green Blue Yellow Orange Purple
Pink Brown Black White Gray Cyan Left Right Above Below Top Bottom Up Down Yes No Zero One Two Three Four Five Six
Seven Eight Nine Ten Even Odd Digit Number Color Colour Shape Object Picture Image Count Position Word Letter
"""

_COMMON_WORDS = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me when make can like time no just him
know take people into year your good some could them see other than then now look only come its over think also
back after use two how our work first well way even new want because any these give day most us is are was were
been has had did does said made went came saw took gave found told felt left put set read run let big small little
long short high low old young great same different next last early late hard soft easy open close near far here
where why again always never often still too very much many few more less least each every both either another such
own under between through during before against without within along across behind beyond around off away man woman
child boy girl person friend family mother father brother sister baby dog cat bird horse cow sheep fish bear
elephant lion tiger mouse rabbit duck chicken animal food water milk bread cake pizza apple banana orange egg
cheese meat rice soup coffee tea cup bottle glass bowl plate fork knife spoon table chair couch bed desk door
window wall floor room kitchen house building street road car truck bus train bicycle boat bridge sign traffic
light stop city town park tree flower grass leaf plant garden mountain hill river sea beach sand sky cloud sun moon
star rain snow wind fire ice stone wood paper book pen pencil page letter story word sentence question answer phone
computer camera clock watch bag box ball bat umbrella hat shirt shoes glasses hand arm leg foot head face eye ear
nose mouth hair tooth body heart blood color white black gray dark bright shape circle square round flat line point
corner edge side center middle top bottom front inside outside part piece whole half number zero three four five
six seven eight nine ten eleven twelve second third once twice hour minute week month morning evening night today
tomorrow school teacher student class lesson game play player team sport tennis music song dance art movie picture
photo image video news math language english country world state business change idea fact example kind type form
group list name place area land field farm ground air earth space heat cold hot warm cool dry wet clean dirty full
empty strong weak fast slow happy sad angry tired hungry wrong true false possible important special simple clear
free real walk stand sit lie sleep wake eat drink cook cut wear buy sell pay send bring carry hold keep leave stay
move turn follow lead start begin finish end continue try help need ask call talk speak tell show explain describe
write draw paint build break fix find win hear listen feel smell taste touch learn study remember hope love seem
become grow live die wait meet drive ride fly jump catch fall rise fill cover join add plus minus times equal
repeat reverse backwards spell count compare choose pick match holding wearing standing sitting riding playing
looking walking eating flying using doing going making taking coming showing following called based given shown
likely maybe usually really quite almost together instead already while until since
"""
