"""Cascades (PAPER section 8): a dispatcher, a router, experts, and one embedding out of all of them."""

from __future__ import annotations

from selfmask.cascade.cascade_file import load_cascade, write_cascade
from selfmask.cascade.evaluation import measure_cascade, storage
from selfmask.cascade.fusion import MODES, Fusion, Mode, fit_fusion, joined
from selfmask.cascade.learning import CascadeRun, learn_cascade
from selfmask.cascade.makeup import Cluster, make_up
from selfmask.cascade.network import Cascade
from selfmask.cascade.router import Router, fit_router
from selfmask.cascade.settings import CascadeSettings

__all__ = [
    "MODES",
    "Cascade",
    "CascadeRun",
    "CascadeSettings",
    "Cluster",
    "Fusion",
    "Mode",
    "Router",
    "fit_fusion",
    "fit_router",
    "joined",
    "learn_cascade",
    "load_cascade",
    "make_up",
    "measure_cascade",
    "storage",
    "write_cascade",
]
