"""From images to a mask file: one loop, its schedule, checkpoints and exact resume, and the run folder."""

from selfmask.training.adapt_settings import AdaptSettings
from selfmask.training.adaptation import Run, adapt
from selfmask.training.loop import Fitted, fit
from selfmask.training.plan import Plan, make_plan
from selfmask.training.settings import FitSettings, rate_at

__all__ = ["AdaptSettings", "FitSettings", "Fitted", "Plan", "Run", "adapt", "fit", "make_plan", "rate_at"]
