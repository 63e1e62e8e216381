"""The panels of the chapters: each drives real training, live, and by `run(...)` without a person."""

from .first_steps import FirstRun, LoopAndCurves
from .race import OptimizerRace
from .rate_lab import ManyRates, RangeTest, RateLab, ScheduleBoard
from .signal import SignalLab
from .split_and_seal import SplitAndSeal

__all__ = [
    "FirstRun",
    "LoopAndCurves",
    "ManyRates",
    "OptimizerRace",
    "RangeTest",
    "RateLab",
    "ScheduleBoard",
    "SignalLab",
    "SplitAndSeal",
]
