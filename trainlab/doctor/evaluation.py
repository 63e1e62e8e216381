"""At the end: the metric recomputed, and what evaluating does to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..randomness import preserve_rng
from .recording import Recorder, first_tensor, mode_parts, recording
from .signs import Sign, error, info, warning
from .subject import inputs_and_target
from .trial import Trial, at_rest


class _Spied:
    """A loader of the same batches that counts how often it is read, and how far."""

    def __init__(self, batches: list[Any], loader: Any) -> None:
        self._batches, self._loader, self.given = batches, loader, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.given += 1
            yield batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def look_at_evaluation(trial: Trial) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about eval_fn, all asked of one call of it."""
    yield "evaluation is in eval mode and changes nothing", lambda: _behaviour(trial)
    yield "the metric does not depend on the batches", lambda: _batching(trial)
    yield "the metric is what its name says", lambda: _recomputed(trial)


def _value(returned: Any) -> float | None:
    if isinstance(returned, dict):
        returned = next((each for each in returned.values() if isinstance(each, float | int | Tensor)), None)
    if isinstance(returned, tuple | list) and returned:
        returned = returned[0]
    if isinstance(returned, Tensor) and returned.numel() == 1:
        return float(returned)
    return float(returned) if isinstance(returned, float | int) else None


def _evaluated(
    trial: Trial, batches: list[Any] | None = None, model: nn.Module | None = None
) -> float | None:
    model = trial.program.model if model is None else model
    spied = _Spied(batches if batches is not None else trial.valid.batches, trial.program.valid)
    modes = [(part, part.training) for part in model.modules()]
    state = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    assert trial.program.eval_fn is not None
    try:
        with preserve_rng():
            torch.manual_seed(0)
            return _value(trial.program.eval_fn(model, spied))
    except Exception:
        return None
    finally:
        with torch.no_grad():
            for tensor, value in state:
                tensor.copy_(value)
        for part, training in modes:
            part.training = training


def _behaviour(trial: Trial) -> Iterator[Sign]:
    program = trial.program
    assert program.eval_fn is not None
    recorder = Recorder(program.model, program.criterion, program.optimizer)
    before = [(t, t.detach().clone()) for t in (*program.model.parameters(), *program.model.buffers())]
    spied = _Spied(trial.valid.batches, program.valid)
    modes = [(part, part.training) for part in program.model.modules()]
    program.model.train()
    failed = ""
    try:
        with preserve_rng(), recording(recorder):
            program.eval_fn(program.model, spied)
    except Exception as caught:
        failed = f"{type(caught).__name__}: {str(caught)[:160]}"
    changed = [t for t, value in before if not torch.equal(t, value)]
    parameters = {id(p) for p in program.model.parameters()}
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)
    for part, training in modes:
        part.training = training
    if failed:
        yield error("evaluation-fails", "eval_fn", failed)
        return
    yield from _what_it_did(trial, recorder, spied, changed, parameters)


def _what_it_did(
    trial: Trial, recorder: Recorder, spied: _Spied, changed: list[Tensor], parameters: set[int]
) -> Iterator[Sign]:
    forwards = recorder.now.forwards
    parts = mode_parts(trial.program.model)
    if spied.given == 0:
        yield error("evaluates-something-else", "eval_fn", "it never reads the loader that it is given")
    elif not forwards and not recorder.called:
        yield info("evaluates-something-else", "eval_fn", "it never calls the model that it is given")
    elif spied.given < len(trial.valid.batches):
        told = f"it reads {spied.given} of {len(trial.valid.batches)} batches"
        yield info("evaluates-a-part", "eval_fn", told)
    if any(id(t) in parameters for t in changed):
        yield error(
            "evaluation-changes-the-model", "eval_fn", f"{len(changed)} weights and buffers have changed"
        )
    elif forwards and all(f.training for f in forwards) and parts:
        names = ", ".join(sorted({type(part).__name__ for _, part in parts}))
        also = f", and {len(changed)} running statistics have changed" if changed else ""
        yield error(
            "evaluation-in-train-mode", "eval_fn", f"{len(forwards)} calls in train mode with {names}{also}"
        )
    if forwards and all(f.has_graph for f in forwards):
        yield info(
            "evaluation-with-gradients",
            "eval_fn",
            f"{len(forwards)} calls build a graph: use torch.no_grad()",
        )


def _one_batch(batches: list[Any]) -> list[Any] | None:
    try:
        pairs = [inputs_and_target(batch) for batch in batches]
        return [(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))]
    except Exception:
        return None


def _batching(trial: Trial) -> Iterator[Sign]:
    batches, sizes = trial.valid.batches, trial.valid.sizes
    whole = _one_batch(batches)
    if whole is None or len(batches) < 2 or len(set(sizes)) < 2:
        return
    first, second, again = _evaluated(trial), _evaluated(trial, whole), _evaluated(trial)
    if first is None or second is None or first != again or not math.isfinite(first):
        return
    gap = abs(first - second) / max(abs(second), 1e-9)
    if gap > 3e-3 and abs(first - second) > 2e-4:
        told = (
            f"{first:.4g} over batches of {sizes[0]}, the last of "
            f"{sizes[-1]}; {second:.4g} over all rows at once"
        )
        yield (warning if gap > 1e-2 else info)("mean-of-batch-means", "eval_fn", told)


def _recomputed(trial: Trial) -> Iterator[Sign]:
    value = _evaluated(trial)
    if value is None:
        return
    right, wrong = _candidates(trial)
    if not right or any(_close(value, each) for each in right.values()):
        return
    name = next((name for name, each in wrong.items() if _close(value, each) and each > 0), None)
    if name is not None:
        told = f"eval_fn says {value:.4g}, which is {name}; recomputed: " + ", ".join(
            f"{key} {each:.4g}" for key, each in list(right.items())[:2]
        )
        yield error("metric-wrong", "eval_fn", told)
    elif "accuracy" in right and 0 <= value <= 1:
        told = f"eval_fn says {value:.4g}, and the accuracy is {right['accuracy']:.4g}"
        yield info("metric-unknown", "eval_fn", f"{told}: is it meant to be something else?")
    elif not 0 <= value <= 100 and trial.valid.y is not None and not trial.valid.y.is_floating_point():
        yield info("metric-unknown", "eval_fn", f"it says {value:.4g}, which is no share, percentage or loss")


def _close(a: float, b: float) -> bool:
    return math.isfinite(b) and abs(a - b) <= 1e-5 * max(abs(a), abs(b), 1e-3)


def _outputs(trial: Trial, batches: list[Any]) -> tuple[Tensor, Tensor, float] | None:
    outs, ys, losses, rows = [], [], 0.0, 0
    try:
        with at_rest(trial.program.model), preserve_rng():
            for batch in batches:
                x, y = inputs_and_target(batch)
                out = first_tensor(trial.program.forward(x, trial.program.model))
                if out is None or len(out) != len(y):
                    return None
                outs.append(out)
                ys.append(y)
                losses += float(trial.program.criterion(out, y).float().mean()) * len(y)
                rows += len(y)
    except Exception:
        return None
    return (torch.cat(outs), torch.cat(ys), losses / rows) if rows else None


def _candidates(trial: Trial) -> tuple[dict[str, float], dict[str, float]]:
    """What a metric may rightly be, and values that only a mistake gives, by its name."""
    found = _outputs(trial, trial.valid.batches)
    if found is None:
        return {}, {}
    out, y, loss = found
    right = {"loss": loss, "mean of batch losses": _mean_of_means(trial), "summed loss": loss * len(y)}
    wrong: dict[str, float] = {}
    if out.dim() == 2 and y.dim() == 1 and not y.is_floating_point() and out.shape[1] > 1:
        _of_classes(trial, out, y, right, wrong)
    elif out.numel() == y.numel() and set(y.flatten().unique().tolist()) <= {0, 1}:
        _of_two(out, y, right, wrong)
    elif out.shape == y.shape and y.is_floating_point():
        error_ = out - y
        right |= {"mse": float(error_.square().mean()), "rmse": float(error_.square().mean().sqrt())}
        right |= {"mae": float(error_.abs().mean()), "mean error": float(error_.mean())}
        right |= {"r2": float(1 - error_.square().sum() / (y - y.mean(0)).square().sum().clamp(min=1e-12))}
    elif out.numel() == y.numel() and y.is_floating_point():
        flat = out.flatten() - y.flatten()
        spread = out.reshape(-1, 1) - y.reshape(1, -1)
        right |= {"mse": float(flat.square().mean()), "mae": float(flat.abs().mean())}
        wrong |= {"a difference of every output with every target": float(spread.square().mean())}
    train = _outputs(trial, trial.train.batches)
    if train is not None:
        wrong |= {"the loss on the training data": train[2]}
        if train[0].dim() == 2 and train[1].dim() == 1 and train[0].shape[1] > 1:
            hits = (train[0].argmax(1) == train[1]).float()
            wrong |= {"the accuracy on the training data": float(hits.mean())}
    return right, wrong


def _mean_of_means(trial: Trial) -> float:
    values = [found[2] for batch in trial.valid.batches if (found := _outputs(trial, [batch])) is not None]
    return sum(values) / max(len(values), 1)


def _of_classes(
    trial: Trial, out: Tensor, y: Tensor, right: dict[str, float], wrong: dict[str, float]
) -> None:
    hits = (out.argmax(1) == y).float()
    sizes = trial.valid.sizes
    parts = hits.split(sizes) if sum(sizes) == len(hits) else ()
    right |= {
        "accuracy": float(hits.mean()),
        "error": 1 - float(hits.mean()),
        "percent": 100 * float(hits.mean()),
    }
    right |= {
        "number of hits": float(hits.sum()),
        "mean of batch accuracies": float(sum(p.mean() for p in parts)) / max(len(parts), 1),
    }
    names = y.unique()
    recalls = torch.stack([hits[y == name].mean() for name in names])
    right |= {"balanced accuracy": float(recalls.mean())}
    share = float(hits.sum())
    given = getattr(trial.program.valid, "batch_size", None) or max(sizes, default=1)
    wrong |= {
        "hits over the number of batches": share / len(sizes),
        "hits over batches x batch size": share / (len(sizes) * given),
    }
    wrong |= {"the accuracy of the last batch": float(parts[-1].mean()) if parts else math.nan}
    wrong |= {"hits of argmin": float((out.argmin(1) == y).float().mean())}
    rows = (trial.train.x is not None and len(trial.train.x)) or 0
    if rows:
        wrong |= {"hits over the number of training rows": share / rows}
    if len(sizes) and all(size >= out.shape[1] for size in sizes):
        columns = [o.argmax(0) for o in out.split(sizes)] if sum(sizes) == len(out) else []
        matches = [
            (c[: min(len(c), len(t))] == t[: min(len(c), len(t))]).float().sum()
            for c, t in zip(columns, y.split(sizes))
        ]
        if matches:
            wrong |= {"hits of argmax over the rows": float(sum(matches)) / len(y)}


def _of_two(out: Tensor, y: Tensor, right: dict[str, float], wrong: dict[str, float]) -> None:
    out, labels = out.float().flatten(), y.flatten() > 0.5
    probabilities = bool(((out >= 0) & (out <= 1)).all())
    limit = 0.5 if probabilities else 0.0
    hits = ((out > limit) == labels).float()
    right |= {
        "accuracy": float(hits.mean()),
        "error": 1 - float(hits.mean()),
        "percent": 100 * float(hits.mean()),
    }
    right |= {"number of hits": float(hits.sum())}
    if not probabilities:
        half = float(((out > 0.5) == labels).float().mean())
        wrong |= {"the accuracy of logits cut at 0.5, which belongs to probabilities": half}
        rounded = float((out.round() == y.flatten().float()).float().mean())
        wrong |= {"the accuracy of rounded logits": rounded}
