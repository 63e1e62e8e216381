"""`epochs` and `steps` are totals; raising them goes on as if they had been larger from the start."""

from __future__ import annotations

from typing import Any

import pytest
from core.runs import assert_same, everything, make_state, mean_ce, table

import trainlab as tl


def setting() -> tuple[tl.TrainState, tuple[Any, Any], dict[str, Any]]:
    loader = tl.make_loader(table(44), 8, seed=3, shuffle=True)  # 6 batches
    return make_state(), (loader, mean_ce), {"valid": tl.make_loader(table(20), 16, seed=0, shuffle=False)}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"epochs": 1}, {"epochs": 3}),
        ({"steps": 4}, {"steps": 16}),
        ({"steps": 6}, {"steps": 7}),
        ({"steps": 3}, {"epochs": 2}),
        ({"epochs": 2}, {"steps": 13}),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_raised_total_goes_on(first: dict[str, int], then: dict[str, int], accumulate: int) -> None:
    whole, arguments, _ = setting()
    tl.fit(whole, *arguments, tl.TrainConfig(**then, accumulate=accumulate))
    state, arguments, _ = setting()
    tl.fit(state, *arguments, tl.TrainConfig(**first, accumulate=accumulate))
    tl.fit(state, *arguments, tl.TrainConfig(**then, accumulate=accumulate))
    assert_same(everything(state), everything(whole))
    assert state.history.column("loss") == whole.history.column("loss")


@pytest.mark.parametrize("total", [{"epochs": 2}, {"steps": 5}, {"steps": 6}])
def test_a_finished_run_says_so_and_is_left_alone(total: dict[str, int]) -> None:
    state, arguments, given = setting()
    tl.fit(state, *arguments, tl.TrainConfig(**total), **given)
    before = everything(state)
    name, value = next(iter(total.items()))
    with pytest.raises(
        tl.TrainlabError, match=f"already at {name[:-1]} {value} of {value}: raise {name} above {value}"
    ):
        tl.train(state, *arguments, tl.TrainConfig(**total), **given)
    assert_same(everything(state), before)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"epochs": 2}, [(6, 1), (12, 2)]),
        ({"epochs": 2, "validate_every": 4}, [(4, 1), (8, 2), (12, 2)]),
        ({"epochs": 2, "validate_every": 5}, [(5, 1), (10, 2), (12, 2)]),
        ({"epochs": 2, "validate_every": 6}, [(6, 1), (12, 2)]),
        ({"steps": 9}, [(6, 1), (9, 2)]),
        ({"steps": 9, "validate_every": 100}, [(9, 2)]),
        ({"epochs": 2, "accumulate": 4}, [(2, 1), (4, 2)]),
    ],
)
def test_validations_come_where_they_are_due_and_once_at_the_end(
    config: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    state, arguments, given = setting()
    events = list(tl.train(state, *arguments, tl.TrainConfig(**config), **given))
    assert [(e.step, e.epoch) for e in events if isinstance(e, tl.Validation)] == expected
    steps = [event for event in events if isinstance(event, tl.Step)]
    assert [event.step for event in steps] == list(range(1, expected[-1][0] + 1))
    assert {event.total for event in steps} == {expected[-1][0]}
    per_epoch = 2 if "accumulate" in config else 6
    assert [event.epoch for event in steps] == [1 + k // per_epoch for k in range(len(steps))]
    # each validation follows the step of its number
    places = [k for k, event in enumerate(events) if isinstance(event, tl.Validation)]
    assert [events[k - 1].step for k in places] == [events[k].step for k in places]


def test_the_last_validation_is_made_up_for() -> None:
    state, arguments, given = setting()
    list(tl.train(state, *arguments, tl.TrainConfig(epochs=1)))
    events = list(tl.train(state, *arguments, tl.TrainConfig(epochs=1), **given))
    assert [type(event) for event in events] == [tl.Validation]


def test_a_loader_without_a_length_has_no_total_and_one_without_a_second_pass_is_named() -> None:
    state, (loader, loss_fn), _ = setting()
    batches = list(loader)

    class Endless:
        def __iter__(self) -> Any:
            return iter(batches)

    events = list(tl.train(state, Endless(), loss_fn, tl.TrainConfig(epochs=1)))
    assert {event.total for event in events} == {None}
    with pytest.raises(tl.TrainlabError, match="an iterator that is used up cannot serve a second epoch"):
        list(tl.train(state, iter(batches), loss_fn, tl.TrainConfig(epochs=3)))
    assert (state.epoch, state.step, state.samples) == (2, 12, 0)
