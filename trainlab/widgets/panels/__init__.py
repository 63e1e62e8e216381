"""The panels of the chapters: each drives real training, live, and by `run(...)` without a person."""

from .first_steps import FirstRun, LoopAndCurves
from .race import OptimizerRace
from .rate_lab import ManyRates, RangeTest, RateLab, ScheduleBoard
from .rescue import Rescue

__all__ = [
    "FirstRun",
    "LoopAndCurves",
    "ManyRates",
    "OptimizerRace",
    "RangeTest",
    "RateLab",
    "Rescue",
    "ScheduleBoard",
]
