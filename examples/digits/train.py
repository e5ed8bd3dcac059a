"""Train the digits network in seconds and write its weights:  python train.py network.pt"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from digits import data, network

EPOCHS = 30
BATCH = 64
LEARNING_RATE = 4e-3
LABEL_SMOOTHING = 0.1
SEED = 0


def random_shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move every image of [N, 1, 8, 8] by up to one pixel each way, filling with black."""
    padded = F.pad(images, (1, 1, 1, 1))  # [N, 1, 10, 10]
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # [N, 1, 3, 3, 8, 8]
    down, right = torch.randint(0, 3, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


def train(checkpoint: Path) -> None:
    """Train with AdamW on a one-cycle schedule and save the state_dict; the same seed gives the same weights."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    split = data().train
    inputs, labels = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
    model = network()
    steps = -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        total, right = 0.0, 0
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            logits = model(random_shift(inputs[batch], generator))  # [B, 10]
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
            right += int((logits.argmax(1) == labels[batch]).sum())
        print(
            f"epoch {epoch + 1:2d}/{EPOCHS}  loss {total / len(labels):.4f}  right {right / len(labels):.1%}",
            flush=True,
        )
    torch.save(model.state_dict(), checkpoint)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="where to write the state_dict")
    train(parser.parse_args().checkpoint)
