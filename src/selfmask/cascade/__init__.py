"""Cascades (PAPER section 8): a dispatcher, a router, experts, and one embedding out of all of them."""

from __future__ import annotations

from selfmask.cascade.fusion import MODES, Fusion, Mode, fit_fusion, joined
from selfmask.cascade.makeup import Cluster, make_up
from selfmask.cascade.router import Router, fit_router

__all__ = ["MODES", "Cluster", "Fusion", "Mode", "Router", "fit_fusion", "fit_router", "joined", "make_up"]
