import pytest
import torch

from ols.training import clock as step_clock
from ols.training.clock import DATA, STEP, StepClock, forecast


def test_a_section_has_the_time_since_the_mark_before_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: now[0])
    clock = StepClock(torch.device("cpu"))

    def pass_time(seconds, section):
        now[0] += seconds
        clock.mark(section)

    pass_time(5, None)
    for _ in range(2):
        pass_time(1, DATA)
        with clock.section("forward"):
            now[0] += 2
        pass_time(4, None)  # of nobody
    assert clock.read() == dict.fromkeys(clock.read(), 0.0) | {DATA: 2.0, "forward": 4.0}
    pass_time(8, "loss")
    assert clock.read()["loss"] == 8
    assert clock.read()["loss"] == 8  # nothing is counted twice


def _seconds(**spent) -> dict[str, float]:
    return dict.fromkeys(STEP, 0.0) | {DATA if name == "data" else name: value for name, value in spent.items()}


@pytest.mark.parametrize(
    ("spent", "limit"),
    [
        ({"forward": 3.0, "backward": 6.0, "data": 0.5, "optimizer": 0.5}, "the model limits it"),
        ({"forward": 2.0, "backward": 2.0, "data": 6.0}, "reading images limits it: a pack would help"),
        ({"forward": 3.0, "backward": 4.0, "data": 3.0}, "the model limits it"),
        ({"forward": 1.0, "backward": 2.0, "optimizer": 7.0}, "optimizer limits it"),
    ],
)
def test_a_forecast_says_how_long_a_run_takes_and_what_limits_it(spent, limit):
    line = forecast(_seconds(**spent), steps=45, steps_left=45 * 720, global_batch_size=256, reading_advice="a pack")
    assert line.startswith("speed 1,152 img/s, 222 ms a step: 2 h 00 min of training left")  # 45 steps in 10 seconds
    assert limit in line


def test_a_table_of_the_sections_adds_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: now[0])
    clock = StepClock(torch.device("cpu"))
    clock.mark(None)
    for _ in range(8):
        for seconds, section in ((3 / 8, "forward"), (1 / 8, "backward")):
            now[0] += seconds
            clock.mark(section)
        assert clock.count_step(steps_left=1, global_batch_size=1) is None
    assert [line.split() for line in clock.table().splitlines() if line.startswith(("forward", "backward", "all"))] == [
        ["forward", "3.00", "75.0%", "375.00"],
        ["backward", "1.00", "25.0%", "125.00"],
        ["all", "4.00", "100.0%", "500.00"],
    ]


def test_a_forecast_leaves_the_first_steps_out_and_comes_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: now[0])
    clock, said = StepClock(torch.device("cpu")), []
    clock.mark(None)
    for step in range(1, 61):
        now[0] += 100 if step <= 5 else 2
        clock.mark("forward")
        said.append(clock.count_step(steps_left=1000 - step, global_batch_size=64))
    assert [step for step, line in enumerate(said, 1) if line is not None] == [50]
    assert said[49].startswith("speed 32 img/s, 2,000 ms a step: 31 min 40 s of training left")
