"""In eval mode, on the copies: rows that mix, chance that stays, tokens that see the future, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..randomness import preserve_rng
from .recording import Recorder, StepTrace, first_tensor, recording
from .signs import Sign, error, info, warning
from .subject import inputs_and_target
from .trial import Trial, at_rest

# letters: N rows, T positions, V words


def look_at_rest(trial: Trial) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions that are asked of the model in eval mode."""
    yield "the rows of a batch are independent", lambda: _rows(trial)
    yield "evaluation is without chance", lambda: _chance(trial)
    yield "activations bend something", lambda: _affine(trial)
    yield "no position sees its own target", lambda: _future(trial)
    yield "targets are shifted by one", lambda: _shift(trial)
    yield "padding does not count in the loss", lambda: _padding_in_loss(trial)
    yield "padding does not change the output", lambda: _padding_in_model(trial)


def _said(trial: Trial, x: Any, model: nn.Module | None = None) -> Tensor | None:
    model = trial.program.model if model is None else model
    try:
        with at_rest(model), preserve_rng():
            torch.manual_seed(0)
            return first_tensor(trial.program.forward(x, model))
    except Exception:
        return None


def _pair(trial: Trial) -> tuple[Any, Any] | None:
    if not trial.train.batches:
        return None
    try:
        return inputs_and_target(trial.train.batches[0])
    except Exception:
        return None


def _far(a: Tensor, b: Tensor) -> float:
    """The largest difference of two outputs, against the spread of the first."""
    size = float((a.float() - a.float().mean()).abs().max().clamp(min=1e-8))
    return float((a.float() - b.float()).abs().max()) / size


def _rows(trial: Trial) -> Iterator[Sign]:
    pair = _pair(trial)
    if pair is None or not isinstance(pair[0], Tensor) or not isinstance(pair[1], Tensor):
        return
    x, y = pair
    n = len(x)
    if n < 4 or y.dim() == 0 or len(y) != n:
        return
    half = n // 2
    whole, front, back = _said(trial, x), _said(trial, x[:half]), _said(trial, x[half:])
    if (
        whole is None
        or front is None
        or back is None
        or (len(whole), len(front), len(back)) != (n, half, n - half)
    ):
        return
    if whole.shape[1:] != front.shape[1:] or (whole.dim() == 2 and whole.shape[1] == n):
        return
    shorter = max(_far(whole[:half], front), _far(whole[half:], back))
    changed = 0.0
    for kept in (slice(0, half), slice(half, n)):
        other = x.flip(0).roll(1, 0)
        other[kept] = x[kept]
        said = _said(trial, other)
        changed = max(changed, 0.0 if said is None else _far(whole[kept], said[kept]))
    if changed > 1e-3 and shorter > 1e-3:
        first = [
            n for n, m in trial.program.model.named_modules() if getattr(m, "batch_first", True) is False
        ]
        hint = f"; {first[0]} has batch_first=False" if first else ""
        told = (
            f"an output changes by {changed:.0%} of its spread when other rows of the batch are changed{hint}"
        )
        yield warning("rows-mix", first[0] if first else type(trial.program.model).__name__, told)


def _chance(trial: Trial) -> Iterator[Sign]:
    pair = _pair(trial)
    if pair is None:
        return
    model = trial.program.model
    recorder = Recorder(model, None, trial.program.optimizer)
    recorder.steps.append(StepTrace(0))
    outs = []
    try:
        with at_rest(model), preserve_rng(), recording(recorder):
            for seed in (1, 2):
                torch.manual_seed(seed)
                outs.append(first_tensor(trial.program.forward(pair[0], model)))
    except Exception:
        return
    if any(out is None for out in outs) or _far(outs[0], outs[1]) < 1e-5:  # type: ignore[arg-type]
        return
    dropped = [
        e for e in recorder.now.events if e.kind == "dropout" and e.data["training"] and e.data["rate"]
    ]
    told = f"two calls in eval mode differ by {_far(outs[0], outs[1]):.0%} of the outputs' spread"  # type: ignore[arg-type]
    if dropped:
        yield warning(
            "dropout-in-evaluation",
            type(model).__name__,
            f"{told}; dropout works at a rate of {dropped[0].data['rate']:g}",
        )
    else:
        yield info("evaluation-by-chance", type(model).__name__, told)


def _affine(trial: Trial) -> Iterator[Sign]:
    """Activations are called, and the model is a straight line all the same."""
    pair, model = _pair(trial), trial.program.model
    linear = [part for part in model.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd)]
    if pair is None or not isinstance(pair[0], Tensor) or not pair[0].is_floating_point() or len(linear) < 2:
        return
    x = pair[0]
    middle = (x + x.flip(0)) / 2
    ends, between = (_said(trial, each, trial.fresh) for each in (x, middle))
    if ends is None or between is None or len(ends) != len(x) or ends.shape != between.shape:
        return
    bent = _far((ends + ends.flip(0)) / 2, between)
    alive = float((ends - ends.mean(0)).abs().max()) > 1e-5 * float(ends.abs().max())
    if not bent < 1e-5 or len(x) < 4 or not alive:
        return
    recorder = Recorder(model, None, trial.program.optimizer)
    with recording(recorder):
        _said(trial, x)
    told = f"the output half way between two rows is half way between their outputs, to {bent:.0e}"
    if recorder.activations:
        yield warning("no-activation", type(model).__name__, f"{told}; activations are called")
    else:
        yield info("no-activation", type(model).__name__, f"{told}; {len(linear)} layers")


def _tokens(trial: Trial) -> tuple[Tensor, Tensor, Tensor] | None:
    """x (N,T) tokens, the targets that the loss was given in their shape, and the model's output (N,T,V)."""
    pair = _pair(trial)
    step = next((step for step in trial.steps if step.forwards and (step.losses or step.criteria)), None)
    if pair is None or step is None:
        return None
    x = first_tensor(step.forwards[0].inputs)
    out = first_tensor(step.forwards[0].output)
    if x is None or out is None or x.dim() != 2 or x.is_floating_point() or out.dim() != 3 or x.shape[1] < 4:
        return None
    targets = [call.target for call in step.losses] or [target for _, target, _ in step.criteria]
    target = next((t for t in targets if isinstance(t, Tensor) and not t.is_floating_point()), None)
    if target is None or out.shape[0] != x.shape[0]:
        return None
    n = len(x)
    for length in (x.shape[1], x.shape[1] - 1, x.shape[1] - 2):
        if target.numel() == n * length and length > 1:
            return x, target.reshape(n, length), out
    return None


def _agreement(x: Tensor, target: Tensor, shift: int, ignored: set[int]) -> tuple[float, int]:
    """The share of the targets that are the token `shift` places later in the input."""
    length = (
        min(target.shape[1], x.shape[1] - shift) if shift >= 0 else min(target.shape[1], x.shape[1]) + shift
    )
    if length < 2:
        return 0.0, 0
    ours = x[:, shift : shift + length] if shift >= 0 else x[:, :length]
    theirs = target[:, :length] if shift >= 0 else target[:, -shift : -shift + length]
    counted = torch.ones_like(theirs, dtype=torch.bool)
    for value in ignored:
        counted &= theirs != value
    if counted.sum() < 4:
        return 0.0, 0
    return float((ours == theirs)[counted].float().mean()), int(counted.sum())


def _shifts(trial: Trial) -> dict[int, float] | None:
    found = _tokens(trial)
    if found is None:
        return None
    x, target, _ = found
    call = next((c for s in trial.steps for c in s.losses), None)
    ignored = {int(call.options.get("ignore_index", -100))} if call is not None else {-100}
    pad = padding_of(x)
    ignored |= {pad} if pad is not None else set()
    shares = {shift: _agreement(x, target, shift, ignored) for shift in (0, 1, 2, 3, -1)}
    return {shift: share for shift, (share, count) in shares.items() if count}


def _causal(trial: Trial, x: Tensor, out: Tensor) -> bool | None:
    """Whether an output depends on no later token; None if the model could not be asked."""
    words = x.unique()
    if len(words) < 3:
        return None
    place = x.shape[1] // 2
    generator = torch.Generator().manual_seed(3)
    other = x.clone()
    other[:, place:] = words[torch.randint(len(words), other[:, place:].shape, generator=generator)]
    first, second = _said(trial, x), _said(trial, other)
    if (
        first is None
        or second is None
        or first.shape != second.shape
        or first.dim() != 3
        or first.shape[1] <= place
    ):
        return None
    return _far(first[:, :place], second[:, :place]) < 1e-4


def _future(trial: Trial) -> Iterator[Sign]:
    shifts, found = _shifts(trial), _tokens(trial)
    if (
        not shifts
        or found is None
        or max(shifts.get(1, 0), shifts.get(2, 0)) < 0.97
        or shifts.get(0, 0) > 0.9
    ):
        return
    if _causal(trial, found[0], found[2]) is False:
        told = (
            f"outputs change when later tokens do, and "
            f"{shifts.get(1, 0):.0%} of the targets are the next token"
        )
        yield error("sees-the-future", type(trial.program.model).__name__, told)


def _shift(trial: Trial) -> Iterator[Sign]:
    shifts, found = _shifts(trial), _tokens(trial)
    if not shifts or found is None:
        return
    best = max(shifts, key=lambda shift: shifts[shift])
    rest = max([share for shift, share in shifts.items() if shift != best], default=0.0)
    if shifts[best] < 0.97 or rest > 0.9 or best == 1:
        return
    causal = _causal(trial, found[0], found[2])
    language = len(found[0].unique()) >= 8  # echoes of a few symbols are a task of their own
    if best == 0 and causal:
        told = f"{shifts[0]:.0%} of the targets are the very token that the model is given at that position"
        yield error("target-not-shifted", "the target", told)
    elif best == 0:
        yield info("target-not-shifted", "the target", f"{shifts[0]:.0%} of the targets are their own input")
    elif best == -1 and language:
        yield error(
            "target-is-the-past", "the target", f"{shifts[-1]:.0%} of the targets are the previous token"
        )
    elif best >= 2 and causal and language:
        told = (
            f"{shifts[best]:.0%} of the targets are the token {best} "
            f"places on, {shifts.get(1, 0):.0%} the next"
        )
        yield error("target-shifted-twice", "the target", told)


def padding_of(x: Tensor) -> int | None:
    """The token that fills the ends (or the beginnings) of rows of different lengths, if there is one."""
    if x.dim() != 2 or x.is_floating_point() or x.shape[1] < 4 or len(x) < 2:
        return None
    for ends in (x, x.flip(1)):
        last, counts = ends[:, -1].unique(return_counts=True)
        token = last[counts.argmax()]
        tail = (ends == token).flip(1).cumprod(1).sum(1)  # (N,) how long the run at the end is
        inside = int((ends == token).sum() - tail.sum())
        share = float(tail.sum()) / x.numel()
        if share > 0.05 and len(tail.unique()) >= 2 and inside <= 0.02 * x.numel() and int(tail.max()) >= 2:
            return int(token)
    return None


def _padding_in_loss(trial: Trial) -> Iterator[Sign]:
    found = _tokens(trial)
    if found is None:
        return
    x, target, _ = found
    pad = padding_of(x)
    if pad is None:
        return
    both = (target == pad) & (x[:, : target.shape[1]] == pad)
    share = float(both.float().mean())
    call = next(
        (
            c
            for s in trial.steps
            for c in s.losses
            if isinstance(c.target, Tensor) and c.target.numel() == target.numel()
        ),
        None,
    )
    if call is None or share < 0.05:
        return
    ignored = int(call.options.get("ignore_index", -100))
    reduced = call.options.get("reduction", "mean") != "none"
    if ignored != pad and reduced and call.kind in ("cross_entropy", "nll_loss"):
        told = f"{share:.0%} of the targets are padding ({pad}), and ignore_index is {ignored}"
        yield warning("padding-in-loss", "the criterion", told)
    elif not reduced and call.value is not None and _weighs_padding(trial, both):
        told = f"{share:.0%} of the targets are padding ({pad}), and the mean goes over them"
        yield warning("padding-in-loss", "the criterion", told)


def _weighs_padding(trial: Trial, both: Tensor) -> bool:
    """Whether the loss that is differentiated is the plain mean of the unreduced one."""
    step = next((s for s in trial.steps if s.losses), None)
    if step is None or step.losses[0].value is None:
        return False
    back = [e.data["value"] for e in step.all("backward") if e.data["value"] is not None]
    return bool(back) and abs(float(step.losses[0].value.float().mean()) - back[0]) < 1e-4 * abs(back[0])


def _padding_in_model(trial: Trial) -> Iterator[Sign]:
    yield from _masks(trial)
    pair = _pair(trial)
    if pair is None or not isinstance(pair[0], Tensor):
        return
    x = pair[0]
    pad = padding_of(x) if x.dim() == 2 and not x.is_floating_point() else None
    if pad is None or bool((x[:, 0] == pad).any()):
        return
    short = x[(x == pad).any(1)]
    real = int((short != pad).sum(1).max())
    if len(short) < 2 or real >= x.shape[1] - 1:
        return
    cut, full = _said(trial, short[:, : real + 1]), _said(trial, short)
    if cut is None or full is None or len(cut) != len(full):
        return
    if full.dim() == 3 and cut.dim() == 3:
        kept = (short[:, : real + 1] != pad)[..., None]
        full = full[:, : real + 1] * kept
        cut = cut * kept
    if full.shape != cut.shape:
        return
    change = _far(full, cut)
    attends = any(isinstance(part, nn.MultiheadAttention) for part in trial.program.model.modules())
    if change > 0.02:
        told = f"outputs change by {change:.0%} of their spread when fewer paddings follow the text"
        level = warning if attends and not _causal_output(trial, full) else info
        yield level("padding-not-masked", type(trial.program.model).__name__, told)


def _causal_output(trial: Trial, full: Tensor) -> bool:
    return full.dim() == 3


def _masks(trial: Trial) -> Iterator[Sign]:
    """Look at the masks that attention is given: True is to mean "leave this out"."""
    pair = _pair(trial)
    x = first_tensor(pair[0]) if pair is not None else None
    pad = padding_of(x) if x is not None else None
    seen: list[Tensor] = []
    ahead: list[Tensor] = []

    def note(part: nn.Module, args: Any, kwargs: Any) -> None:
        future = kwargs.get("attn_mask", kwargs.get("mask", kwargs.get("src_mask")))
        if isinstance(future, Tensor) and future.dim() == 2:
            ahead.append(future.detach())
        mask = kwargs.get("src_key_padding_mask", kwargs.get("key_padding_mask"))
        if isinstance(mask, Tensor):
            seen.append(mask.detach())

    kinds = nn.MultiheadAttention | nn.TransformerEncoder | nn.TransformerEncoderLayer
    parts = [part for part in trial.program.model.modules() if isinstance(part, kinds)]
    if not parts or x is None or pair is None:
        return
    handles = [part.register_forward_pre_hook(note, with_kwargs=True) for part in parts]
    _said(trial, pair[0])
    for handle in handles:
        handle.remove()
    hidden = [(m if m.dtype == torch.bool else m == float("-inf")).all(1).any() for m in (*ahead, *seen)]
    if any(hidden):
        yield error(
            "mask-hides-everything", "the attention mask", "a row of the mask leaves nothing to attend to"
        )
    if pad is None:
        return
    masks = [mask for mask in seen if mask.shape == x.shape]
    if masks:
        left_out = masks[0] if masks[0].dtype == torch.bool else masks[0] < -1
        inverted = float((left_out == (x != pad)).float().mean())
        if inverted > 0.98:
            told = f"the mask is True at {int(left_out.sum())} real tokens and False at the padding"
            yield error("mask-inverted", "key_padding_mask", told)
