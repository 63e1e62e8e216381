"""Drawing only: each function takes what was measured and returns the Axes it drew on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .diagnostics import LayerGradient
from .errors import TrainlabError, unknown_name
from .events import History
from .memory.meter import PARTS, StepCost
from .rates import LrRangeReport
from .sweeps import SweepReport

# Middle tones, told apart by colour-blind readers too (after Okabe and Ito), and legible on white
# as on the dark theme; text and lines in a grey with a contrast above 3.9 on both
COLORS = ("#2b7bba", "#d9730d", "#1a936f", "#b8579b", "#a1770f", "#cc4b4b")
INK = "#808080"

_STYLE: Any = {
    "figure.figsize": (5.0, 2.8),
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "grid.color": INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "text.color": INK,
    # a hair to either side of middle grey: were all tick labels light, or all dark, the notebook would
    # put a box of the other theme's colour behind the figure
    "xtick.color": "#7e7e7e",
    "ytick.color": "#828282",
    "font.size": 9,
}


def plot_theme() -> None:
    """From here on, draw figures that are legible in the light and the dark theme of JupyterLab."""
    mpl.rcParams.update(_STYLE)


def plot_history(history: History, ax: Axes | None = None, *, metric: str = "loss") -> Axes:
    """Draw a metric over the steps: training (faint, with its mean per epoch) and validation.

    metric: "loss", or any that was measured ("accuracy").
    Raises TrainlabError if the history has no such column.
    """
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure().add_subplot()
        measured = {key for row in history.rows for key in row if row["event"] == "step"}
        known = {key for row in history.rows for key in row}
        if metric in measured:
            _draw_training(history, ax, metric)
        if f"valid_{metric}" in known:
            steps = history.column("step", event="validation")
            ax.plot(steps, history.column(f"valid_{metric}"), "o-", color=COLORS[1], label="validation")
        if not ax.lines:
            raise unknown_name("metric", metric, measured | {key.removeprefix("valid_") for key in known})
        ax.set_xlabel("optimizer step")
        ax.set_ylabel(f"{metric} (nats)" if metric == "loss" else metric)
        ax.legend()
    return ax


def _draw_training(history: History, ax: Axes, metric: str) -> None:
    steps = np.array(history.column("step"))
    values = np.array(history.column(metric), dtype=float)
    epochs = np.array(history.column("epoch"))
    ax.plot(steps, values, color=COLORS[0], alpha=0.35, linewidth=0.8)
    ends = [steps[epochs == epoch].max() for epoch in np.unique(epochs)]
    means = [values[epochs == epoch].mean() for epoch in np.unique(epochs)]
    ax.plot(ends, means, "o-", color=COLORS[0], label="training, mean of the epoch")


def plot_schedule(rates: Sequence[float], ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Draw a learning rate over the optimizer steps, from `tl.schedules.preview` or a history's "lr".

    label: the curve's name; draw several on one Axes to compare them.
    """
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure().add_subplot()
        ax.plot(range(1, len(rates) + 1), rates, label=label)
        ax.set_xlabel("optimizer step")
        ax.set_ylabel("learning rate")
        if ax.get_yscale() == "linear":
            ax.set_ylim(bottom=0.0)
        if label is not None:
            ax.legend()
    return ax


def plot_lr_range(report: LrRangeReport, ax: Axes | None = None) -> Axes:
    """Draw the losses of a range test over the rate: raw (faint), smoothed, and the rate it suggests."""
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure().add_subplot()
        ax.plot(report.rates, report.losses, color=COLORS[0], alpha=0.35, linewidth=0.8)
        ax.plot(report.rates, report.smoothed, color=COLORS[0], label="loss, smoothed")
        ax.axvline(
            report.suggestion, color=COLORS[1], linestyle="--", label=f"suggestion {report.suggestion:.2g}"
        )
        ax.set_xscale("log")
        # a last loss of thousands would press the rest flat
        low, start = min(report.losses), report.smoothed[0]
        ax.set_ylim(low - 0.1 * (start - low), start + 0.6 * (start - low))
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend()
    return ax


def plot_sweep(report: SweepReport, ax: Axes | None = None) -> Axes:
    """Draw each member's score over its learning rate (log axis), the diverged ones at the upper edge.

    The score is the validation loss or, without validation, the mean of the last training losses; where
    a rate was tried with several seeds, the line goes through their mean.
    """
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure().add_subplot()
        ax.set_xscale("log")
        scores: dict[float, list[float]] = {}
        for member in report.members:
            if member.diverged_at is None:
                scores.setdefault(member.lr, []).append(member.score)
        rates = sorted(scores)
        ax.plot(rates, [np.mean(scores[rate]) for rate in rates], color=COLORS[0])
        points = [(rate, score) for rate in rates for score in scores[rate]]
        ax.plot([rate for rate, _ in points], [score for _, score in points], "o", color=COLORS[0], ms=4)
        if (best := report.best) is not None:
            ax.plot([best.lr], [best.score], "o", color=COLORS[1], label=f"best: {best.lr:.3g}")
        lost = [member.lr for member in report.members if member.diverged_at is not None]
        if lost:
            edge = ax.get_xaxis_transform()  # rates across, share of the height up
            ax.plot(lost, [0.97] * len(lost), "x", color=COLORS[5], transform=edge, label="diverged")
        validated = best is not None and "loss" in best.valid
        ax.set_xlabel("learning rate")
        ax.set_ylabel(f"{'validation' if validated else 'training'} loss")
        ax.legend()
    return ax


def plot_step_cost(cost: StepCost, ax: Axes | None = None) -> Axes:
    """Draw what one step held, part upon part, over its allocations and releases; the peak is marked."""
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure(figsize=(6.4, 2.8)).add_subplot()
        # the parts from the steadiest, at the bottom, to the most fleeting; those that are nothing left out
        layers = {name: values for name, values in zip(PARTS, np.array(cost.moments).T / 1e6) if values.any()}
        places = range(len(cost.moments))
        colors = [(*COLORS, INK)[PARTS.index(name)] for name in layers]
        ax.stackplot(places, *layers.values(), labels=[*layers], colors=colors, step="post", linewidth=0)
        whole = np.sum([*layers.values()], axis=0)
        at = int(whole.argmax())
        ax.plot(at, whole[at], "v", color=INK, label=f"peak: {whole[at]:.1f} MB")
        ax.set_xlabel("allocations and releases, in their order")
        ax.set_ylabel("memory (MB)")
        ax.set_ylim(0, 1.08 * whole[at])
        handles, names = ax.get_legend_handles_labels()
        order = [*reversed(range(len(layers))), len(layers)]  # as they lie upon each other
        ax.legend([handles[k] for k in order], [names[k] for k in order], loc="center left",
                  bbox_to_anchor=(1.0, 0.5))  # fmt: skip
    return ax


def plot_gradient_flow(layers: Sequence[LayerGradient], ax: Axes | None = None) -> Axes:
    """Draw the mean and the largest absolute gradient of each layer on a log scale, input side at the left.

    layers: from `gradient_flow`.  A dead layer is marked by a cross at the lower edge, an exploding one by
    a triangle at the upper edge.
    Raises TrainlabError if there is no layer.
    """
    if not layers:
        raise TrainlabError("no layer to draw: gradient_flow(model) gives them after loss.backward()")
    with mpl.rc_context(_STYLE):
        ax = ax if ax is not None else plt.figure().add_subplot()
        places = np.arange(len(layers))
        means, largest = (_drawable([getattr(layer, key) for layer in layers]) for key in ("mean", "max"))
        ax.bar(places, means, color=COLORS[0], alpha=0.55, label="mean of a layer")
        ax.plot(places, largest, "o", color=COLORS[1], ms=4, label="largest of a layer")
        ax.set_yscale("log")
        _leave_room(ax, np.concatenate([means, largest]))
        edge = ax.get_xaxis_transform()  # layers across, share of the height up
        dead = [place for place, layer in zip(places, layers) if layer.dead]
        wild = [place for place, layer in zip(places, layers) if layer.exploding]
        if dead:
            ax.plot(dead, [0.04] * len(dead), "x", color=COLORS[5], mew=2, transform=edge, label="dead")
        if wild:
            ax.plot(wild, [0.96] * len(wild), "^", color=COLORS[3], transform=edge, label="exploding")
        ax.set_xticks(places, [f"{layer.name} {layer.kind}".strip() for layer in layers], rotation=60)
        plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_ylabel("|gradient| of an entry")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _drawable(values: Sequence[float]) -> np.ndarray:
    """A log axis has no place for 0, NaN and infinity: the marks stand for those."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


def _leave_room(ax: Axes, values: np.ndarray) -> None:
    """Half a decade and more on both sides for the marks; at least two decades, so that equal looks equal."""
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (1e-3, 1.0)
    ax.set_ylim(low / 10, max(high * 10, low * 100))
