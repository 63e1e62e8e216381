"""The panels of the chapters: each drives real training, live, and by `run(...)` without a person."""

from .augmentation_desk import AugmentationDesk
from .first_steps import FirstRun, LoopAndCurves
from .kill_and_resume import KillAndResume
from .loss_lab import LossLab
from .memory_budget import MemoryBudget
from .race import OptimizerRace
from .rate_lab import ManyRates, RangeTest, RateLab, ScheduleBoard
from .rescue import Rescue
from .signal import SignalLab
from .split_and_seal import SplitAndSeal

__all__ = [
    "AugmentationDesk",
    "FirstRun",
    "KillAndResume",
    "LoopAndCurves",
    "LossLab",
    "ManyRates",
    "MemoryBudget",
    "OptimizerRace",
    "RangeTest",
    "RateLab",
    "Rescue",
    "ScheduleBoard",
    "SignalLab",
    "SplitAndSeal",
]
