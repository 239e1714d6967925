"""LLaVA from its published parts, and adapters of its original code: logits against the parts wired by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from icons.config import ModelConfig
from icons.data.batches import make_batch
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.adapters import attach_adapter
from icons.models.loading import load_base
from icons.models.sentencepiece import write_tokenizer_json
from tests.conftest import SHARED_DATA, Outcome, Project, icons

VECTORS = SHARED_DATA / "llava_v1_vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="LLaVA's own vectors are not at hand (../shared/data)")
HIDDEN, WIDTH, PIXELS, PATCH = 64, 32, 32, 8
PATCHES = (PIXELS // PATCH) ** 2


def save_shards(model: nn.Module, folder: Path) -> None:
    """As Vicuna is published: PyTorch files of a part each, and an index."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    names = sorted(state)
    files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, own in files.items():
        torch.save({name: state[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_parts(root, tiny_model)
    return root


def write_parts(root: Path, tiny_model: Path) -> None:
    """vicuna/, clip/ and mm_projector.bin in the published formats, with random weights."""
    torch.manual_seed(0)
    (root / "vicuna").mkdir()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    vocabulary = [token for token in tokenizer.get_vocab() if token != "<image>"]
    config = LlamaConfig(
        vocab_size=len(vocabulary) + 1, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    llm = LlamaForCausalLM(config)
    save_shards(llm, root / "vicuna")
    config.save_pretrained(root / "vicuna")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((tiny_model / name).read_text().replace("<image>", "<other>"))
        content.pop("image_token", None)  # a language model's own tokenizer knows of none
        (root / "vicuna" / name).write_text(json.dumps(content))
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": PIXELS, "patch_size": PATCH, "initializer_range": 0.1,
    }  # fmt: skip
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    text = dict(zip(sizes, (16, 16, 1, 2, 20), strict=True))
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(root / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
    ).save_pretrained(root / "clip")
    torch.save(projector_tensors(1), root / "mm_projector.bin")


def projector_tensors(seed: int, prefix: str = "model.mm_projector") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    return {
        f"{prefix}.0.weight": random(HIDDEN, WIDTH),
        f"{prefix}.0.bias": random(HIDDEN),
        f"{prefix}.2.weight": random(HIDDEN, HIDDEN),
        f"{prefix}.2.bias": random(HIDDEN),
    }


def assembled(parts: Path, out: Path, **changed: Path) -> Outcome:
    used = {"llm": parts / "vicuna", "vision": parts / "clip", "projector": parts / "mm_projector.bin"} | changed
    options = [part for name, path in used.items() for part in (f"--{name}", path)]
    return icons("assemble", *options, out)


@pytest.fixture(scope="module")
def model(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assembled") / "llava"
    outcome = assembled(parts, out)
    assert outcome.code == 0, outcome.err
    return out


def by_hand(parts: Path, llm: LlamaForCausalLM, projector: dict[str, Tensor], ids: list[int], pixels: Tensor) -> Tensor:
    """Logits [T, V] with the image where `ids` has -1, wired from the parts themselves."""
    tower = CLIPVisionModel.from_pretrained(parts / "clip").eval()
    weights = list(projector.values())
    with torch.no_grad():
        features = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        features = F.linear(F.gelu(F.linear(features, weights[0], weights[1])), weights[2], weights[3])
        embeddings = llm.get_input_embeddings()
        at = ids.index(-1)
        before, after = torch.tensor([ids[:at]]), torch.tensor([ids[at + 1 :]])
        mixed = torch.cat([embeddings(before), features, embeddings(after)], dim=1)
        logits: Tensor = llm(inputs_embeds=mixed).logits[0]
    return logits


def vicuna(parts: Path) -> LlamaForCausalLM:
    llm = LlamaForCausalLM(LlamaConfig.from_pretrained(parts / "vicuna")).eval()
    for path in (parts / "vicuna").glob("*.bin"):
        llm.load_state_dict(torch.load(path, weights_only=True), strict=False)
    return llm


IDS = [1, 300, 301, -1, 302, 303, 304]


def through_hugging_face(model: Any, pixels: Tensor) -> Tensor:
    image = model.config.image_token_id
    ids = [each for token in IDS for each in ([image] * PATCHES if token == -1 else [token])]
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), pixel_values=pixels
        ).logits[0]
    return logits


def difference(ours: Tensor, oracle: Tensor) -> float:
    return float((ours[:, : oracle.shape[1]] - oracle).abs().max())


def test_the_assembled_model_has_the_logits_of_its_parts(parts: Path, model: Path) -> None:
    pixels = torch.randn(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    whole = LlavaForConditionalGeneration.from_pretrained(model).eval()
    oracle = by_hand(parts, vicuna(parts), projector_tensors(1), IDS, pixels)
    assert difference(through_hugging_face(whole, pixels), oracle) < 1e-5


def test_the_vocabulary_grows_and_nothing_else_changes(parts: Path, model: Path) -> None:
    before, after = AutoTokenizer.from_pretrained(parts / "vicuna"), AutoTokenizer.from_pretrained(model)
    text = "USER: Is it red?\nASSISTANT: Yes, naïve 猫.</s>"
    assert after(text).input_ids == before(text).input_ids
    whole = LlavaForConditionalGeneration.from_pretrained(model)
    rows, added = whole.get_input_embeddings().weight, len(before)
    assert after.convert_tokens_to_ids("<image>") == whole.config.image_token_id == added
    assert rows.shape[0] % 64 == 0
    old = vicuna(parts).get_input_embeddings().weight
    assert torch.equal(rows[: old.shape[0]], old)
    torch.testing.assert_close(rows[added], old.mean(0))


def test_the_processor_is_llavas(model: Path) -> None:
    processor = json.loads((model / "processor_config.json").read_text())
    wanted = {
        "image_token": "<image>",
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    assert {key: processor[key] for key in wanted} == wanted
    assert processor["image_processor"]["do_pad"]


@pytest.fixture
def vicuna_as_published(parts: Path, tmp_path: Path) -> Path:
    """With tokenizer.model and no tokenizer.json."""
    folder = tmp_path / "as-published"
    shutil.copytree(parts / "vicuna", folder, ignore=shutil.ignore_patterns("tokenizer*"))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(VECTORS / "tokenizer" / name, folder / name)
    return folder


@needs_vectors
def test_a_sentencepiece_model_alone_gives_the_same_tokenizer(parts: Path, vicuna_as_published: Path) -> None:
    out = vicuna_as_published.parent / "out"
    outcome = assembled(parts, out, llm=vicuna_as_published)
    assert outcome.code == 0, outcome.err
    oracle, ours = AutoTokenizer.from_pretrained(VECTORS / "tokenizer"), AutoTokenizer.from_pretrained(out)
    for text in ("Hello world", "USER: Is it red?\nASSISTANT: Yes.</s>USER: a  b", "  naïve 猫\t{}", "</s>x", ""):
        assert ours(text).input_ids == oracle(text).input_ids
        assert ours.decode(ours(text).input_ids) == oracle.decode(oracle(text).input_ids)
    assert ours.convert_tokens_to_ids("<image>") == len(oracle)
    assert not [path for path in out.glob("*.json") if str(vicuna_as_published.parent) in path.read_text()]


@needs_vectors
def test_a_sentencepiece_model_read_is_the_tokenizer_json_made_from_it(tmp_path: Path) -> None:
    folder = VECTORS / "tokenizer"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_tokenizer_json(folder / "tokenizer.model", settings, tmp_path / "tokenizer.json")
    ours, oracle = (json.loads((at / "tokenizer.json").read_text()) for at in (tmp_path, folder))
    ours["model"]["merges"] = [" ".join(pair) for pair in ours["model"]["merges"]]
    assert ours == oracle | {"model": {key: oracle["model"][key] for key in ours["model"]}}


@needs_vectors
@pytest.mark.parametrize("content", [b"", b"\xff" * 40, "cut"])
def test_a_damaged_sentencepiece_model_is_refused(content: Any, parts: Path, vicuna_as_published: Path) -> None:
    path = vicuna_as_published / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:5001] if content == "cut" else content)
    outcome = assembled(parts, vicuna_as_published.parent / "out", llm=vicuna_as_published)
    assert outcome.code == 2
    assert str(path) in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_safetensors_parts_and_half_precision_are_kept(parts: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "vicuna", tmp_path / "half", ignore=shutil.ignore_patterns("*.bin*"))
    vicuna(parts).half().save_pretrained(tmp_path / "half")
    assert assembled(parts, tmp_path / "out", llm=tmp_path / "half").code == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if "vision" in name} == {torch.float32}
    text = [tensor for name, tensor in stored.items() if "language_model" in name]
    assert text
    assert {tensor.dtype for tensor in text} == {torch.float16}


def test_the_assembled_model_runs(model: Path, project: Project) -> None:
    project.raw["model"]["base"] = str(model)
    project.save()
    outcome = project.icons("validate")
    assert outcome.code == 0, outcome.out + outcome.err
    assert project.icons("warmup").code == 0
    assert project.icons("val-grads", "--task", "text").code == 0


def spoil_projector(root: Path) -> dict[str, Path]:
    torch.save({"model.mm_projector.weight": torch.zeros(HIDDEN, WIDTH)}, root / "linear.bin")
    return {"projector": root / "linear.bin"}


def narrow_projector(root: Path) -> dict[str, Path]:
    torch.save({name: tensor[:8] for name, tensor in projector_tensors(0).items()}, root / "narrow.bin")
    return {"projector": root / "narrow.bin"}


def pickled_projector(root: Path) -> dict[str, Path]:
    torch.save({"model.mm_projector.0.weight": Path("x")}, root / "pickled.bin")
    return {"projector": root / "pickled.bin"}


def no_tokenizer(root: Path) -> dict[str, Path]:
    (root / "no-tokenizer").mkdir()
    LlamaConfig().save_pretrained(root / "no-tokenizer")
    return {"llm": root / "no-tokenizer"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil_projector, "is not of a two-layer projector"),
        (
            narrow_projector,
            "do not fit: model.multi_modal_projector.linear_1.weight is (8, 32), expected (64, 32)",
        ),
        (pickled_projector, "cannot be read as tensors"),
        (lambda root: {"projector": root / "nowhere.bin"}, "nowhere.bin is not there"),
        (lambda root: {"llm": root}, "--llm: {root} has no config.json"),
        (no_tokenizer, "no-tokenizer has no tokenizer.json and no tokenizer.model"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: Any, words: str, parts: Path, tmp_path: Path) -> None:
    outcome = assembled(parts, tmp_path / "out", **change(tmp_path))
    assert outcome.code == 2
    assert words.format(root=tmp_path) in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_parts_of_another_kind_are_refused(parts: Path, tmp_path: Path) -> None:
    outcome = assembled(parts, tmp_path / "out", llm=parts / "clip")
    assert "--llm:" in outcome.err
    assert "is a clip model; expected llama" in outcome.err
    outcome = assembled(parts, tmp_path / "out", vision=parts / "vicuna")
    assert "is a llama model; expected CLIP" in outcome.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "is there already and not empty" in assembled(parts, tmp_path / "full").err


@pytest.fixture(scope="module")
def llava_adapter(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As LLaVA's train.py leaves it: suffixes for targets, its own tensor names, the projector in a file of its own."""
    folder = tmp_path_factory.mktemp("llava-lora")
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    targets = []
    for name, layer in vicuna(parts).named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, layer.in_features, generator=generator) * 0.1
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.1
            targets.append(name.rsplit(".", 1)[1])
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05,
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "target_modules": sorted(set(targets)),
        "modules_to_save": None, "fan_in_fan_out": False, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "adapter_model.bin")
    torch.save(projector_tensors(9, "base_model.model.model.mm_projector"), folder / "non_lora_trainables.bin")
    return folder


@pytest.fixture(scope="module")
def imported(llava_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "adapter"
    outcome = icons("import-adapter", llava_adapter, out)
    assert outcome.code == 0, outcome.err
    return out


def with_lora(parts: Path, folder: Path) -> LlamaForCausalLM:
    """W + (alpha / r) B A, added by hand."""
    llm, tensors = vicuna(parts), torch.load(folder / "adapter_model.bin", weights_only=True)
    for name, layer in llm.named_modules():
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None:
            layer.weight.data += 2 * tensors[f"base_model.model.{name}.lora_B.weight"] @ a
    return llm


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own, of transformers
def test_an_imported_adapter_has_the_logits_of_the_original(
    parts: Path, model: Path, llava_adapter: Path, imported: Path
) -> None:
    from peft import PeftModel

    pixels = torch.randn(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))
    oracle = by_hand(parts, with_lora(parts, llava_adapter), projector_tensors(9), IDS, pixels)
    whole = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(model), imported).eval()
    assert difference(through_hugging_face(whole, pixels), oracle) < 1e-5
    plain = by_hand(parts, vicuna(parts), projector_tensors(1), IDS, pixels)
    assert (plain - oracle).abs().max() > 0.1


def test_icons_itself_takes_the_imported_adapter_and_its_projector(
    parts: Path, model: Path, llava_adapter: Path, imported: Path, drawn: Path
) -> None:
    config = ModelConfig(base=str(model), dtype="float32", device="cpu")
    loaded = attach_adapter(load_base(config), imported)
    source = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), loaded.inputs)
    sample = next(sample for sample in source.samples(range(20))[0] if sample.images)
    batch, _ = make_batch([sample], loaded.inputs)
    assert batch is not None
    with torch.no_grad():
        ours = loaded.head(loaded.hidden_states(batch)[0])
    image, ids = loaded.inputs.image_token_id, sample.tokens.ids[: sample.length]
    at = ids.index(image)
    rest = [*ids[:at], -1, *ids[at + PATCHES :]]
    pixels = batch.images[0]["pixel_values"]
    oracle = by_hand(parts, with_lora(parts, llava_adapter), projector_tensors(9), rest, pixels)
    assert difference(ours, oracle) < 1e-5
    assert not any(parameter.requires_grad for parameter in loaded.peft.parameters())


def test_a_run_takes_gradients_at_an_imported_adapter(model: Path, imported: Path, project: Project) -> None:
    project.raw["model"] |= {"base": str(model), "adapter": str(imported)}
    project.save()
    outcome = project.icons("validate")
    assert outcome.code == 0, outcome.out + outcome.err
    outcome = project.icons("val-grads", "--task", "text")
    assert outcome.code == 0, outcome.err
    too_many = project.icons("val-grads", "--task", "text", "--set", "gradients.dim=1000000")
    tensors = load_file(imported / "adapter_model.safetensors")
    count = sum(tensor.numel() for name, tensor in tensors.items() if "lora_" in name)
    assert f"exceeds the {count} LoRA parameters" in too_many.err


LORA_DOWN = "base_model.model.model.language_model.layers.0.mlp.down_proj.lora_A.weight"
BIAS = "base_model.model.model.multi_modal_projector.linear_2.bias"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (BIAS, lambda tensor: tensor[:8], f"{BIAS} is (8,), expected ({HIDDEN},)"),
        (BIAS, lambda tensor: None, f"not in the adapter: {BIAS}"),
        (LORA_DOWN, lambda tensor: tensor[:, :8], f"{LORA_DOWN} is (4, 8), expected (4, 96)"),
        (LORA_DOWN, lambda tensor: None, f"not in the adapter: {LORA_DOWN}"),
        (
            "base_model.model.lm_head.weight",
            lambda tensor: torch.zeros(4, 4),
            "unknown to the model: base_model.model.lm",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_found_by_validate_and_by_the_stage(
    name: str, change: Any, words: str, model: Path, imported: Path, project: Project, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(imported, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = change(tensors.pop(name, None))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    project.raw["model"] |= {"base": str(model), "adapter": str(folder)}
    project.save()
    validated, run = project.icons("validate"), project.icons("val-grads", "--task", "text")
    assert (validated.code, run.code) == (2, 2)
    assert words in validated.out + validated.err
    assert words in run.err
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("form", ["as published", "without its projector", "as safetensors"])
def test_an_adapter_of_llavas_own_code_is_refused_with_the_way_out(
    form: str, model: Path, llava_adapter: Path, project: Project, tmp_path: Path
) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(llava_adapter, folder)
    if form != "as published":
        (folder / "non_lora_trainables.bin").unlink()
    if form != "as published":
        tensors = torch.load(folder / "adapter_model.bin", weights_only=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    project.raw["model"] |= {"base": str(model), "adapter": str(folder)}
    project.save()
    for command in ("validate", "val-grads"):
        outcome = project.icons(command)
        assert outcome.code == 2
        assert f"icons import-adapter {folder} OUT" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_config.json", {"peft_type": "LORA", "use_dora": True}, "use_dora is set"),
        ("adapter_config.json", {"peft_type": "IA3"}, "not of a LoRA adapter"),
        ("adapter_config.json", {"peft_type": "LORA"}, "r, the rank, is None"),
        ("adapter_config.json", {"peft_type": "LORA", "r": 8}, "which is not of rank 8 (adapter_config.json)"),
        (
            "adapter_model.bin",
            {"base_model.model.lm_head.lora_A.weight": torch.zeros(1)},
            "is no LoRA tensor of",
        ),
        ("non_lora_trainables.bin", {"model.norm.weight": torch.zeros(1)}, "is not of a two-layer projector"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(
    file: str, content: dict[str, Any], words: str, llava_adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(llava_adapter, tmp_path / "llava")
    if file.endswith("json"):
        (tmp_path / "llava" / file).write_text(json.dumps(content))
    else:
        torch.save(content, tmp_path / "llava" / file)
    outcome = icons("import-adapter", tmp_path / "llava", tmp_path / "out")
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_nothing_is_written_over_another_adapter(llava_adapter: Path, imported: Path) -> None:
    outcome = icons("import-adapter", llava_adapter, imported)
    assert outcome.code == 2
    assert "is there already and not empty" in outcome.err
