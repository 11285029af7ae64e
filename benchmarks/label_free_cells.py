"""What `label_free.py` runs: data sets, recipes and networks, and a cell, which is one of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import assets

DATA: dict[str, assets.Settings] = {
    "cifar10": assets.CIFAR10 | {"images": 5000, "size": 64},
    "clothing": assets.CLOTHING | {"size": 64},
    "dtd10": assets.DTD | {"size": 96},
    "gtsrb": assets.SIGNS | {"size": 64},
    "digits": assets.DIGITS | {"size": 48, "mirror": False},
}
RECIPES: dict[str, dict[str, Any]] = {
    "contrast": {"objective": "contrast"},
    "contrast, 8 passes, rate 0.025": {"objective": "contrast", "epochs": 8, "lr": 0.025},
    "contrast, 8 passes, rate 0.05": {"objective": "contrast", "epochs": 8, "lr": 0.05},
    "contrast, 12 passes, rate 0.025": {"objective": "contrast", "epochs": 12, "lr": 0.025},
    "contrast, 18 passes, rate 0.025": {"objective": "contrast", "epochs": 18, "lr": 0.025},
    "contrast, 18 passes, rate 0.05": {"objective": "contrast", "epochs": 18, "lr": 0.05},
    "contrast, 9 passes, rate 0.05, light 1, pull 1": {
        "objective": "contrast", "epochs": 9, "lr": 0.05, "objective_settings": {"light": 1.0, "pull": 1.0}
    },
    "contrast, 14 passes, rate 0.05, light 0.8": {
        "objective": "contrast", "epochs": 14, "lr": 0.05, "objective_settings": {"light": 0.8}
    },
    "contrast, targets at 64 px": {"objective": "contrast", "objective_settings": {"target_size": 64}},
    "distil": {"objective": "distil"},
    "distil, tensor-adam 0.015, 3 epochs": {
        "objective": "distil", "optimizer": "tensor-adam", "lr": 0.015, "epochs": 3
    },
    "distil, tensor-adam": {"objective": "distil", "optimizer": "tensor-adam"},
    "distil, targets at 210 px": {"objective": "distil", "objective_settings": {"target_size": 210}},
    "swav": {"objective": "swav"},
    "swav, 1 pass": {"objective": "swav", "epochs": 1},
    "swav, 2 passes": {"objective": "swav", "epochs": 2},
    "swav, 4 passes": {"objective": "swav", "epochs": 4},
    "swav, 16 passes": {"objective": "swav", "epochs": 16},
}  # fmt: skip
FIRST = "efficientnet-lite0"
BACKBONES: dict[str, assets.Settings] = {
    FIRST: assets.EFFICIENTNET,
    "resnet-18": assets.RESNET_18,
    "vit-s14": assets.VIT_S14 | {"size": 70},  # a multiple of its patches
}


@dataclass(frozen=True)
class Cell:
    """One kind of run. size: of the views, in pixels; None for the data's own."""

    data: str
    backbone: str
    recipe: str
    size: int | None = None

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults."""
        found = DATA[self.data] | BACKBONES[self.backbone] | RECIPES[self.recipe]
        return found if self.size is None else found | {"size": self.size}

    def name(self, seed: int) -> str:
        """Of its run's folder, and of its file of results."""
        first = [] if self.backbone == FIRST else [self.backbone]
        sized = [] if self.size is None else [f"{self.size}px"]
        words = [self.data, *first, *sized, self.recipe, str(seed)]
        return "-".join(words).replace(", ", "-").replace(" ", "-")
