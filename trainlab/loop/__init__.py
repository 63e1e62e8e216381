"""The training loop: `train` yields events, `evaluate` measures, `fit` serves observers."""
