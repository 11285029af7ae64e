"""The paper's constants (PAPER §6), which `--preset paper` takes where the user says nothing else."""

from __future__ import annotations

from typing import Any

LABEL_FREE = ("distil", "selflabel", "swav")


def paper_constants(family: str, objective: str) -> dict[str, Any]:
    """The settings of PAPER §6 for a family and an objective.

    ResNets: λ = 50, linear warm-up to epoch 40 of 150, then cosine; CLIP and other ViTs: λ = 10, cosine, 32 epochs;
    without labels: λ = 50, cosine, 150 epochs (SwAV's; for selflabel and distil too, which the paper has not). Always
    SGD with momentum 0.9, batch norms that adapt, 224 px.
    """
    constants: dict[str, Any] = {"optimizer": "sgd", "norm_stats": "adapt", "size": 224, "warmup": 0.0}
    if objective in LABEL_FREE:
        return constants | {"lr": 50.0, "epochs": 150.0}
    if family in ("vit", "clip"):
        return constants | {"lr": 10.0, "epochs": 32.0}
    return constants | {"lr": 50.0, "epochs": 150.0, "warmup": 40 / 150}
