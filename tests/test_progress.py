"""What a person sees while a run trains."""

import io

import pytest
from rich.console import Console

from highway_jax import progress


@pytest.mark.parametrize(
    ("steps_per_second", "shown"),
    [(0.784, "0.78 steps/s"), (5.83, "5.8 steps/s"), (33.4, "33 steps/s"), (3941, "3,941 steps/s")],
)
def test_a_rate_has_two_digits_at_least(steps_per_second, shown):
    assert progress.format_rate(steps_per_second) == shown


def test_a_log_has_a_line_every_few_seconds_and_one_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress.Display(console=Console(file=out)).batch("net", 40, 0) as bar:
        for step in range(10, 50, 10):
            now[0] += 0.6 * progress.LOG_SECONDS
            bar.advance(step, "epoch 1")
    assert out.getvalue().splitlines() == ["net:  50%  epoch 1", "net: 100%  epoch 1"]
