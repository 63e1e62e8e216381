"""trainlab: the small package that carries the course on training neural networks.

Every public name is imported when it is first used, so that `import trainlab` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> the module that defines it; a module's own name stands for the module itself
_HOMES = {
    "TrainlabError": "errors",
    "seed_everything": "randomness",
    "preserve_rng": "randomness",
    "Dataset": "data.dataset",
    "TextDataset": "data.dataset",
    "load": "data.catalogue",
    "datasets": "data.catalogue",
    "Splits": "data.splits",
    "split": "data.splits",
    "leakage": "data.leaks.search",
    "LeakageReport": "data.leaks.report",
    "Leak": "data.leaks.report",
    "quality": "data.cleaning",
    "QualityReport": "data.cleaning",
    "Fold": "data.splits",
    "folds": "data.splits",
    "make_loader": "data.loaders",
    "augmentation": "data.augmentation",
    "models": "models",
    "count_parameters": "models",
    "losses": "losses",
    "schedules": "schedules",
    "optimizers": "optimizers",
    "Loss": "losses",
    "Step": "events",
    "Validation": "events",
    "Changed": "events",
    "Restarted": "events",
    "Event": "events",
    "STOP": "events",
    "History": "events",
    "TrainState": "state",
    "Controls": "state",
    "TrainConfig": "loop.config",
    "train": "loop.training",
    "fit": "loop.training",
    "evaluate": "loop.evaluation",
    "Progress": "observers",
    "EarlyStopping": "observers",
    "BestModel": "observers",
    "DropoutSchedule": "observers",
    "JsonLines": "observers",
    "Checkpointer": "checkpoint.saving",
    "save_checkpoint": "checkpoint.saving",
    "load_checkpoint": "checkpoint.saving",
    "latest_checkpoint": "checkpoint.saving",
    "activation_stats": "diagnostics",
    "ActivationStats": "diagnostics",
    "measure_step": "memory.meter",
    "StepCost": "memory.meter",
    "memory_budget": "memory.budget",
    "Budget": "memory.budget",
    "gradient_flow": "diagnostics",
    "LayerGradient": "diagnostics",
    "check_gradients": "diagnostics",
    "GradientReport": "diagnostics",
    "ParameterGradient": "diagnostics",
    "overfit_one_batch": "diagnostics",
    "OverfitReport": "diagnostics",
    "doctor": "doctor",
    "Diagnosis": "doctor.report",
    "Finding": "doctor.report",
    "lr_range_test": "rates",
    "LrRangeReport": "rates",
    "plots": "plots",
    "plot_history": "plots",
    "plot_schedule": "plots",
    "plot_lr_range": "plots",
    "plot_gradient_flow": "plots",
    "plot_theme": "plots",
    "sweep": "sweeps",
    "sweep_steps": "sweeps",
    "SweepReport": "sweeps",
    "SweepMember": "sweeps",
    "SweepProgress": "sweeps",
    "plot_sweep": "plots",
    "plot_step_cost": "plots",
    "LiveRun": "widgets.live",
    "panels": "widgets.panels",
    "check_environment": "course.environment",
    "check": "course.exercises",
    "hint": "course.exercises",
    "solution": "course.exercises",
    "progress": "course.exercises",
    "predict": "course.predictions",
    "project": "course.projects",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainlab' has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f".{home}", __name__)
    value = module if home.split(".")[-1] == name else getattr(module, name)
    globals()[name] = value  # the next access skips this function
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
