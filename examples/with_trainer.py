"""A mask inside of Hugging Face's Trainer: hand it the mask set's optimizer.

python examples/with_trainer.py fetches a ViT from the hub   (pip install transformers accelerate)
"""

from __future__ import annotations

from tempfile import mkdtemp
from typing import Any

import torch
from own_loop import digits
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

import selfmask


def pretrained() -> torch.nn.Module:
    """A ViT with a new head for ten classes."""
    return AutoModelForImageClassification.from_pretrained(
        "WinKawaks/vit-tiny-patch16-224", num_labels=10, ignore_mismatched_sizes=True
    )


def accuracy(seen: Any) -> dict[str, float]:
    return {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())}


def main(
    model: torch.nn.Module | None = None, size: int = 224, steps: int = 150, out: str = "digits.mask.safetensors"
) -> dict[str, Any]:  # fmt: skip
    """Learns a mask and writes its file. Returns what the Trainer measured with the mask on."""
    torch.manual_seed(0)
    model = pretrained() if model is None else model
    x, y = digits(size)
    data: Any = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, y, strict=True)]

    masks = selfmask.MaskSet(model, rule=selfmask.Threshold(spread=0.5), train="classifier.*")
    optimizer = masks.optimizer(torch.optim.Adam, lr=0.03, trained={"lr": 1e-3})
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=mkdtemp(), max_steps=steps, per_device_train_batch_size=32, per_device_eval_batch_size=128,
            report_to=[], save_strategy="no", use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data[:1_000],
        eval_dataset=data[1_000:],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        compute_metrics=accuracy,
    )  # fmt: skip
    trainer.train()
    figures = trainer.evaluate()
    print(masks.status(), figures)
    masks.save(out)
    masks.remove()
    return figures


if __name__ == "__main__":
    main()
