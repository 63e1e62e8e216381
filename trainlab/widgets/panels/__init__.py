"""The panels of the chapters: each drives real training, live, and by `run(...)` without a person."""

from .augmentation_desk import AugmentationDesk
from .first_steps import FirstRun, LoopAndCurves
from .race import OptimizerRace
from .rate_lab import ManyRates, RangeTest, RateLab, ScheduleBoard

__all__ = [
    "AugmentationDesk",
    "FirstRun",
    "LoopAndCurves",
    "ManyRates",
    "OptimizerRace",
    "RangeTest",
    "RateLab",
    "ScheduleBoard",
]
