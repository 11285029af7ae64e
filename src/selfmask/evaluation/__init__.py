"""How good are the features? k-NN, linear probe, intervals, the four rows, the low-shot protocol.

PAPER section 7. Every figure is taken on features of un-augmented images in evaluation mode; every accuracy
carries a 95 % interval, every comparison is paired (the same test images under both networks).
"""

from __future__ import annotations

from selfmask.evaluation.features import eval_mode, features
from selfmask.evaluation.intervals import accuracy_interval, paired_interval
from selfmask.evaluation.knn import knn
from selfmask.evaluation.low_shot import SHARES, LowShotPoint, label_share, low_shot
from selfmask.evaluation.measure import measure, measure_features
from selfmask.evaluation.probe import Probe, fit_logistic, fit_probe
from selfmask.evaluation.ridge import ridge_head
from selfmask.evaluation.rounding import HeadCost, head_cost
from selfmask.evaluation.rows import Estimate, Outcome, Row, Rows
from selfmask.evaluation.statistics import moved_statistics

__all__ = [
    "SHARES",
    "Estimate",
    "HeadCost",
    "LowShotPoint",
    "Outcome",
    "Probe",
    "Row",
    "Rows",
    "accuracy_interval",
    "eval_mode",
    "features",
    "fit_logistic",
    "fit_probe",
    "head_cost",
    "knn",
    "label_share",
    "low_shot",
    "measure",
    "measure_features",
    "moved_statistics",
    "paired_interval",
    "ridge_head",
]
