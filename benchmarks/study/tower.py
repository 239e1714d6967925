"""The vision tower of the study's start: it sees what is in the pictures before a language model reads them.

LLaVA begins with a tower that CLIP has trained on pictures and texts. Here a linear layer reads the answers to all
questions about a picture from the patch features that LLaVA takes; both are trained on the pictures of the start.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor, LlavaForConditionalGeneration


def train_tower(
    model: LlavaForConditionalGeneration, folder: Path, data: Path, images: Path, *, steps: int, batch: int, seed: int
) -> None:
    """Trains `model`'s vision tower in place on the pictures and facts of `data`; `folder` holds its processor."""
    records = json.loads(data.read_text())
    pixels_N3HW = _pixels(folder, [images / record["image"] for record in records])
    facts = sorted({tuple(fact) for record in records for fact in record["facts"]})
    place = {fact: index for index, fact in enumerate(facts)}
    questions = sorted({question for question, _ in facts})
    asked_P = torch.tensor([questions.index(question) for question, _ in facts])  # the question of each possible fact
    told = [[place[tuple(fact)] for fact in record["facts"]] for record in records]

    generator = torch.Generator().manual_seed(seed)
    layer = model.config.vision_feature_layer
    tower = model.model.vision_tower
    tower.requires_grad_(True).train()

    def features(pixels_B3HW: Tensor) -> Tensor:
        hidden_BPH = tower(pixels_B3HW, output_hidden_states=True).hidden_states[layer][:, 1:]
        return hidden_BPH.flatten(1)

    torch.manual_seed(seed)
    reader = torch.nn.Linear(features(pixels_N3HW[:1]).shape[1], len(facts))
    optimizer = torch.optim.AdamW([*tower.parameters(), *reader.parameters()], lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    order: list[int] = []
    for _ in tqdm(range(steps), desc="tower", mininterval=30):
        if len(order) < batch:
            order = torch.randperm(len(records), generator=generator).tolist()
        rows, order = order[:batch], order[batch:]
        owner_F = torch.tensor([position for position, row in enumerate(rows) for _ in told[row]])
        fact_F = torch.tensor([fact for row in rows for fact in told[row]])
        logits_FP = reader(features(pixels_N3HW[rows]))[owner_F]
        logits_FP = logits_FP.masked_fill(asked_P != asked_P[fact_F].unsqueeze(1), -torch.inf)
        loss = torch.nn.functional.cross_entropy(logits_FP, fact_F)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _pixels(folder: Path, paths: list[Path]) -> Tensor:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = []
    for start in range(0, len(paths), 512):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + 512]]
        found.append(processor(pictures, return_tensors="pt")["pixel_values"])
    return torch.cat(found)
