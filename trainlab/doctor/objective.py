"""Output, loss and target: whether they fit together, seen at the calls of torch's loss functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .recording import LossCall
from .signs import Sign, error, info, warning
from .trial import Trial

_ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_RANGES = {
    "Relu": (0.0, float("inf")),
    "Sigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softplus": (0.0, float("inf")),
    "Exp": (0.0, float("inf")),
    "Softmax": (0.0, 1.0),
    "Hardtanh": (-1.0, 1.0),
}
CLASSIFIES = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")


def look_at_objective(trial: Trial) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about the loss, each asked of every call that was recorded."""
    calls = [
        call for step in trial.steps for call in step.losses if call.input_has_graph or call.target_has_graph
    ]
    yield "output and loss fit together", lambda: _each(calls, _activation)
    yield "shapes of output and target", lambda: [*_each(calls, _shapes), *_spread(trial)]
    yield "targets are what the loss needs", lambda: _each(calls, _targets)
    yield "outputs can reach the targets", lambda: _range(calls)
    yield "class weights", lambda: _weights(calls)
    yield "no class is ignored", lambda: _ignored(calls)
    yield "output before target", lambda: _each(calls, _swapped)
    yield "both kinds of targets pull", lambda: _one_sided(trial)
    yield "the data's share of the loss", lambda: _other_terms(trial)


def _each(calls: list[LossCall], question: Callable[[LossCall], Iterator[Sign]]) -> list[Sign]:
    """The signs that at least three quarters of the calls of a kind give: one odd batch proves nothing."""
    found: dict[tuple[str, str], list[Sign]] = {}
    for call in calls:
        for sign in question(call):
            found.setdefault((sign.code, call.kind), []).append(sign)
    kinds = {kind: sum(call.kind == kind for call in calls) for _, kind in found}
    return [signs[0] for (_, kind), signs in found.items() if len(signs) >= 0.75 * kinds[kind]]


def _class_dim(values: Tensor) -> int:
    return 1 if values.dim() > 1 else 0


def _sums_to_one(values: Tensor, dim: int) -> bool:
    inside = bool((values >= 0).all()) and bool((values <= 1 + 1e-4).all())
    return inside and bool(((values.sum(dim) - 1).abs() < 1e-3).all())


def _log_normalised(values: Tensor, dim: int) -> bool:
    return bool((values.float().logsumexp(dim).abs() < 1e-2).all())


def _activation(call: LossCall) -> Iterator[Sign]:
    values, where = call.input.float(), f"the input of {call.kind}"
    if values.numel() < 2 or not torch.isfinite(values).all():
        return
    dim = _class_dim(values)
    if call.kind == "binary_cross_entropy" and call.origin == "Clamp":
        edge = float(((values == values.min()) | (values == values.max())).float().mean())
        if edge > 0.3 and values.numel() >= 16:
            told = f"{edge:.0%} of the outputs lie on the edges of a clamp, where the gradient is exactly 0"
            yield warning("output-clamped", where, told)
    elif call.kind in ("cross_entropy", "nll_loss"):
        yield from _of_classes(call, values, dim, where)
    elif call.kind == "binary_cross_entropy_with_logits":
        if call.origin in ("Sigmoid", "Softmax"):
            told = (
                f"outputs between {values.min():.3g} and {values.max():.3g} come from {call.origin.lower()}"
            )
            yield error("sigmoid-twice", where, told)
        elif call.origin == "Relu":
            yield warning(
                "relu-on-logits", where, f"{(values == 0).float().mean():.0%} of the logits are cut to 0"
            )
    elif call.kind == "kl_div":
        if bool((values > 1e-6).any()):
            told = f"log-probabilities up to {values.max():.3g}, and none can be above 0"
            yield error("log-probabilities-needed", where, told)
        elif not _log_normalised(values, -1):
            yield info("log-probabilities-needed", where, "the rows are no distributions")
    elif call.kind == "ctc_loss" and not _log_normalised(values, -1):
        yield error(
            "log-probabilities-needed", where, f"log-probabilities up to {values.max():.3g}, unnormalised"
        )
    elif call.kind == "poisson_nll_loss":
        log = call.options.get("log_input", True)
        if log and call.origin in ("Exp", "Softplus"):
            yield warning(
                "exponential-twice", where, f"the output comes from {call.origin.lower()}, log_input=True"
            )
        elif not log and bool((values < 0).any()):
            yield error("rate-below-zero", where, f"log_input=False, and a rate of {values.min():.3g}")


def _of_classes(call: LossCall, values: Tensor, dim: int, where: str) -> Iterator[Sign]:
    width = values.shape[dim]
    if width == 1:
        yield error("one-class-output", where, "1 output: its softmax is 1 whatever the weights")
        return
    normed = _sums_to_one(values, dim)
    batched = values.dim() == 2 and len(values) > 2
    if call.kind == "cross_entropy":
        if normed:
            yield error(
                "softmax-before-cross-entropy", where, f"rows between 0 and 1 that sum to 1, {width} classes"
            )
        elif batched and _sums_to_one(values, 0):
            yield error("softmax-over-the-batch", where, "columns, not rows, sum to 1")
        elif batched and _log_normalised(values, 0) and width != len(values):
            yield error("softmax-over-the-batch", where, "columns, not rows, are log-probabilities")
        elif call.origin == "LogSoftmax":
            yield info(
                "log-softmax-twice", where, "log_softmax comes before, and cross_entropy takes it again"
            )
        elif call.origin == "Relu" and float((values == 0).float().mean()) > 0.2:
            told = f"{(values == 0).float().mean():.0%} of the logits are cut to 0 by a relu"
            yield warning("relu-on-logits", where, told)
        elif call.origin in ("Sigmoid", "Tanh"):
            told = f"logits between {values.min():.3g} and {values.max():.3g} come from {call.origin.lower()}"
            yield warning("bounded-logits", where, told)
    elif not _log_normalised(values, dim):
        if batched and _log_normalised(values, 0):
            yield error("softmax-over-the-batch", where, "columns, not rows, are log-probabilities")
        elif normed:
            yield error(
                "log-probabilities-needed", where, "rows between 0 and 1 that sum to 1: probabilities"
            )
        else:
            told = f"exp of a row sums to {values.exp().sum(dim).mean():.3g}, and must to 1"
            yield error("log-probabilities-needed", where, told)


def _shapes(call: LossCall) -> Iterator[Sign]:
    target = call.target
    if not isinstance(target, Tensor) or call.kind not in (*_ELEMENTWISE, "kl_div", "poisson_nll_loss"):
        return
    if call.input.shape == target.shape or target.numel() <= 1:
        return
    try:
        whole = torch.broadcast_shapes(call.input.shape, target.shape)
    except RuntimeError:
        return
    numbers = torch.Size(whole).numel()
    told = f"output {tuple(call.input.shape)} against target {tuple(target.shape)}: {numbers} differences"
    if numbers > max(call.input.numel(), target.numel()):
        yield error("shapes-broadcast", call.kind, told)
    elif call.input.dim() != target.dim():
        yield info("shapes-broadcast", call.kind, told)


def _spread(trial: Trial) -> Iterator[Sign]:
    pairs = [pair for step in trial.steps for pair in step.spread_out]
    flat = [(a, b) for a, b in pairs if abs(len(a) - len(b)) == 1 and 1 in (*a, *b)]
    if len(flat) >= 0.75 * len(trial.steps) > 0:
        a, b = flat[0]
        yield error("shapes-broadcast", "the loss", f"{a} minus {b} gives N x N differences")


def _targets(call: LossCall) -> Iterator[Sign]:
    target, where = call.target, f"the target of {call.kind}"
    if not isinstance(target, Tensor) or target.numel() < 4:
        return
    values = target.float()
    if call.kind in ("hinge_embedding_loss", "soft_margin_loss", "margin_ranking_loss"):
        if bool(((values == 0) | (values == 1)).all()) and bool((values == 0).any()):
            yield error(
                "targets-not-signs",
                where,
                f"{(values == 0).float().mean():.0%} are 0, and -1 and 1 are needed",
            )
    elif call.kind in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        if bool((values < 0).any()) or bool((values > 1).any()):
            yield error(
                "target-out-of-range",
                where,
                f"from {values.min():.3g} to {values.max():.3g}, 0 to 1 is needed",
            )
    elif call.kind == "cross_entropy" and target.is_floating_point() and target.shape == call.input.shape:
        sums = values.sum(_class_dim(values))
        if bool((sums - 1).abs().max() > 1e-2):
            told = f"rows sum to between {sums.min():.3g} and {sums.max():.3g}, a distribution's to 1"
            yield warning("target-no-distribution", where, told)
    elif call.kind == "kl_div" and not call.options.get("log_target", False):
        if bool((values < -1e-6).any()):
            yield error("target-no-distribution", where, f"a probability of {values.min():.3g}")
        elif not _sums_to_one(values, -1):
            yield info("target-no-distribution", where, "the rows do not sum to 1")
    elif call.kind == "poisson_nll_loss" and bool((values < 0).any()):
        yield error("target-out-of-range", where, f"a count of {values.min():.3g}")
    elif call.kind in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        ignored = call.options.get("ignore_index", -100)
        if bool((target == ignored).all()):
            yield error(
                "all-targets-ignored", where, f"all {target.numel()} targets are {ignored}, which is ignored"
            )


def _range(calls: list[LossCall]) -> Iterator[Sign]:
    """Over all calls together: targets beyond what the last activation can give."""
    for kind in _ELEMENTWISE:
        ours = [c for c in calls if c.kind == kind and c.input_has_graph and isinstance(c.target, Tensor)]
        if not ours or len({c.origin for c in ours}) != 1 or ours[0].origin not in _RANGES:
            continue
        low, high = _RANGES[ours[0].origin]
        values = torch.cat([c.target.float().flatten() for c in ours])
        outside = ((values < low - 0.01) | (values > high + 0.01)).float().mean()
        if outside >= 0.05 and len(values) >= 16:
            told = (
                f"{outside:.0%} of the targets lie outside {low:g} to "
                f"{high:g}, the range of {ours[0].origin.lower()}"
            )
            level = error if outside >= 0.2 else warning
            yield level("output-cannot-reach-target", f"the input of {kind}", told)


def _weights(calls: list[LossCall]) -> Iterator[Sign]:
    ours = [
        c
        for c in calls
        if isinstance(c.options.get("weight"), Tensor) and c.kind in ("cross_entropy", "nll_loss")
    ]
    ours = [c for c in ours if isinstance(c.target, Tensor) and not c.target.is_floating_point()]
    if ours:
        weight = ours[0].options["weight"].float()
        labels = torch.cat([c.target.flatten() for c in ours])
        counts = torch.bincount(
            labels[(labels >= 0) & (labels < len(weight))].long(), minlength=len(weight)
        ).float()
        seen = counts > 0
        if seen.sum() >= 2 and len(weight) == len(counts):
            yield from _weights_against(weight, counts, seen)
    with_logits = [
        c
        for c in calls
        if c.kind == "binary_cross_entropy_with_logits" and c.options.get("pos_weight") is not None
    ]
    if with_logits:
        factor = with_logits[0].options["pos_weight"].float().flatten()
        share = torch.cat([c.target.float().flatten() for c in with_logits]).mean()
        if len(factor) == 1 and ((share < 0.3 and factor[0] < 0.7) or (share > 0.7 and factor[0] > 1.5)):
            told = f"pos_weight={float(factor[0]):.3g}, and {share:.0%} of the targets are positive"
            yield warning("class-weights-inverted", "pos_weight", told)


def _weights_against(weight: Tensor, counts: Tensor, seen: Tensor) -> Iterator[Sign]:
    if bool((weight[seen] == 0).any()):
        place = int((seen & (weight == 0)).nonzero()[0])
        told = f"class {place} has a weight of 0 and {int(counts[place])} targets"
        yield error("class-weights-wrong", "the criterion's weight", told)
        return
    w, n = weight[seen].log(), counts[seen].log()
    imbalance, spread = float((n.max() - n.min()).exp()), float((w.max() - w.min()).exp())
    if imbalance > 2.5 and spread > 1.3:
        r = float(((w - w.mean()) * (n - n.mean())).sum() / ((w - w.mean()).norm() * (n - n.mean()).norm()))
        if r > 0.7:
            told = (
                f"frequent classes weigh up to {spread:.1f} times as much "
                f"(correlation with the counts {r:.2f})"
            )
            yield warning("class-weights-inverted", "the criterion's weight", told)


def _ignored(calls: list[LossCall]) -> Iterator[Sign]:
    ours = [c for c in calls if c.kind in ("cross_entropy", "nll_loss") and isinstance(c.target, Tensor)]
    ours = [c for c in ours if not c.target.is_floating_point() and c.input.dim() == 2]
    if not ours or ours[0].options.get("ignore_index", -100) < 0:
        return
    ignored = ours[0].options["ignore_index"]
    labels = torch.cat([c.target.flatten() for c in ours])
    share = float((labels == ignored).float().mean())
    width, used = ours[0].input.shape[1], len(labels.unique())
    if share > 0.02 and width <= 20 and used >= width - 1 and share < 0.9:
        yield info(
            "ignore-index-hides-a-class",
            "the criterion",
            f"class {ignored} is {share:.0%} of the targets, ignored",
        )


def _swapped(call: LossCall) -> Iterator[Sign]:
    if call.target_has_graph and not call.input_has_graph and call.kind not in _ELEMENTWISE:
        yield error("arguments-swapped", call.kind, "the first argument has no graph, the second has one")
    elif call.target_has_graph and not call.input_has_graph:
        yield info("arguments-swapped", call.kind, "the first argument has no graph, the second has one")


def _one_sided(trial: Trial) -> Iterator[Sign]:
    """A hinge of one's own that wants -1 and 1 and is given 0 and 1: targets of 0 have no gradient."""
    if not trial.direct or not trial.steps or not trial.steps[0].criteria:
        return
    output, target, _ = trial.steps[0].criteria[0]
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or output.numel() != target.numel():
        return
    zero = target == 0
    if not bool((zero | (target == 1)).all()) or not bool(zero.any()) or bool(zero.all()):
        return
    generator = torch.Generator().manual_seed(0)
    guess = torch.randn(output.shape, generator=generator)
    inside = bool((output >= 0).all()) and bool((output <= 1).all())
    guess = (guess.sigmoid() if inside else guess).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(trial.program.criterion(guess, target).mean(), guess)
    if bool((slope[zero] == 0).all()) and bool((slope[~zero] != 0).any()):
        told = f"{float(zero.float().mean()):.0%} of the targets are 0, and the loss has no gradient there"
        yield warning("targets-not-signs", "the criterion", told)


def _other_terms(trial: Trial) -> Iterator[Sign]:
    ratios = []
    for step in trial.steps:
        values = [e.data["value"] for e in step.all("criterion") if e.data["value"]]
        back = [e.data["value"] for e in step.all("backward") if e.data["value"]]
        if len(values) == len(back) == 1 and not step.all("scale") and values[0] > 0:
            ratios.append(back[0] / values[0])
    if len(ratios) >= 4 and min(ratios) > 5:
        told = f"backward() is called on {min(ratios):.3g} times the criterion's value and more"
        yield info("other-terms-dominate", "the training step", told)
