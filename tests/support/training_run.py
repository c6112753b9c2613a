"""A run of stock transformers' Trainer on a tiny model, which leaves checkpoints as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from support import models


def batches(vocabulary: int, count: int = 64, length: int = 16) -> list[dict[str, torch.Tensor]]:
    """Examples that can be learned: random walks over the tokens."""
    generator = torch.Generator().manual_seed(1)
    walks = torch.randint(-2, 3, (count, length), generator=generator).cumsum(1) % vocabulary
    return [{"input_ids": walk, "labels": walk} for walk in walks]


def trainer(model: Path, out: Path, steps: int, **options: Any) -> Trainer:
    """A Trainer of the model at `model` that writes a checkpoint into `out` at the end."""
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_strategy="steps",
        report_to=[],
        logging_strategy="steps",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        dataloader_pin_memory=False,
        **({"learning_rate": 1e-3, "weight_decay": 0.1, "save_steps": steps, "lr_scheduler_type": "linear"} | options),
    )
    loaded = models.load(model).train()
    return Trainer(model=loaded, args=arguments, train_dataset=batches(loaded.config.vocab_size))


def names(optimizer: torch.optim.Optimizer, model: Path) -> list[str]:
    """The names of the parameters of the Trainer's optimizer, in the order of its groups."""
    loaded = models.load(model)
    decaying = set(Trainer.get_decay_parameter_names(None, loaded))
    every = [name for name, _ in loaded.named_parameters()]
    found = [name for wanted in (True, False) for name in every if (name in decaying) is wanted]
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    return found
