"""Where pretrained networks come from, and what one must know of each to use it."""

from selfmask.backbones.backbone import Backbone, TextTower
from selfmask.backbones.catalogue import ALIASES, DEFAULT, PUBLISHED
from selfmask.backbones.from_module import from_module
from selfmask.backbones.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from selfmask.backbones.spec import KINDS, build, check_description, parse, rebuild, weight_places

__all__ = [
    "ALIASES",
    "DEFAULT",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "KINDS",
    "PUBLISHED",
    "Backbone",
    "Preprocessing",
    "TextTower",
    "build",
    "check_description",
    "from_module",
    "parse",
    "rebuild",
    "weight_places",
]
