"""The method: rules (score → mask), selection (which weights), the mask set, and its optimizer.

It knows nothing of images, files or training loops.
"""

from selfmask.masking.densities import check_densities
from selfmask.masking.gradient import score_gradient
from selfmask.masking.maskset import MaskSet
from selfmask.masking.optimizer import MaskOptimizer
from selfmask.masking.presets import FAMILIES, Preset, detect_family, preset
from selfmask.masking.rules import Progressive, Rule, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.masking.status import Status, TensorStatus
from selfmask.masking.tensor_adam import TensorAdam
from selfmask.masking.weight import alpha, masked_weight, scale

__all__ = [
    "FAMILIES",
    "LargestShare",
    "MaskOptimizer",
    "MaskSet",
    "Preset",
    "Progressive",
    "RandomShare",
    "Rule",
    "Selection",
    "Status",
    "TensorAdam",
    "TensorStatus",
    "Threshold",
    "TopK",
    "alpha",
    "check_densities",
    "detect_family",
    "masked_weight",
    "preset",
    "scale",
    "score_gradient",
]
