"""The panels of the chapters: each drives real training, live, and by `run(...)` without a person."""

from .first_steps import FirstRun, LoopAndCurves
from .loss_lab import LossLab
from .race import OptimizerRace
from .rate_lab import ManyRates, RangeTest, RateLab, ScheduleBoard
from .signal import SignalLab
from .split_and_seal import SplitAndSeal

__all__ = [
    "FirstRun",
    "LoopAndCurves",
    "LossLab",
    "ManyRates",
    "OptimizerRace",
    "RangeTest",
    "RateLab",
    "ScheduleBoard",
    "SignalLab",
    "SplitAndSeal",
]
