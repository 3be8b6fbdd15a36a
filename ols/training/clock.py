"""Where the time of a run goes, and how long it will take."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from torch.profiler import profile, record_function, schedule, tensorboard_trace_handler

WARM_UP_STEPS = 5  # left out of a forecast: compilation, autotuning, the first batches
FORECAST_STEPS = 50
DATA = "data wait"
STEP = (DATA, "forward", "loss", "backward", "optimizer", "logging")  # sections of a training step
SECTIONS = (*STEP, "evaluation", "metrics", "checkpoint")


class NoTrace(nullcontext):
    """In the place of a profiler, where none is wanted."""

    def step(self) -> None:
        """Do nothing."""


class StepClock:
    """Sums the time of each section of a run: what has passed since the mark before.

    On a GPU a mark is an event in its queue, so that a section has the time of the device, gaps included, and the host
    does not wait: `DATA` is how long the device had nothing to do because a batch was not there.

    Args:
        device: Where the work is done.
        reading_advice: What would make reading faster, for a run that it limits.
    """

    def __init__(self, device: torch.device, *, reading_advice: str = "more data.workers"):
        self._reading_advice = reading_advice
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(SECTIONS, 0.0)
        self._ended: list[str | None] = []  # section that ends at each mark
        self._times: list[float] = []  # of the marks on a CPU
        self._events: list[torch.cuda.Event] = []  # and on a GPU
        self._before: dict[str, float] = {}  # seconds of the steps that a forecast leaves out
        self.steps = 0

    def mark(self, section: str | None) -> None:
        """Say that a section ends here; None leaves out what has passed."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())
        self._ended.append(section)

    @contextmanager
    def section(self, section: str) -> Iterator[None]:
        """Time what is done inside, under its name in a trace, too."""
        with record_function(section):
            yield
        self.mark(section)

    def read(self) -> dict[str, float]:
        """Return the seconds of each section so far; waits for the device."""
        if self._events:
            self._events[-1].synchronize()
        passed = [end - start for start, end in pairwise(self._times)]
        passed += [start.elapsed_time(end) / 1000 for start, end in pairwise(self._events)]
        for section, seconds in zip(self._ended[1:], passed, strict=True):
            if section is not None:
                self._seconds[section] += seconds
        del self._ended[:-1], self._times[:-1], self._events[:-1]
        return self._seconds.copy()

    def count_step(self, *, steps_left: int, global_batch_size: int) -> str | None:
        """Count a step; after the first `FORECAST_STEPS` return a forecast of the run, see `forecast`."""
        self.steps += 1
        if self.steps == WARM_UP_STEPS:
            self._before = self.read()
        if self.steps != FORECAST_STEPS:
            return None
        seconds = {name: value - self._before[name] for name, value in self.read().items() if name in STEP}
        steps = FORECAST_STEPS - WARM_UP_STEPS
        return forecast(
            seconds,
            steps=steps,
            steps_left=steps_left,
            global_batch_size=global_batch_size,
            reading_advice=self._reading_advice,
        )

    def table(self) -> str:
        """Return a table of what each section took: seconds in all, share, and milliseconds a step."""
        seconds = self.read()
        total = sum(seconds.values())
        lines = [("", "s", "share", "ms a step")]
        for section, value in [*seconds.items(), ("all", total)]:
            share, each = value / max(total, 1e-9), 1000 * value / max(self.steps, 1)
            lines.append((section, f"{value:,.2f}", f"{share:.1%}", f"{each:,.2f}"))
        return "\n".join(f"{name:12}{spent:>10}{share:>9}{each:>12}" for name, spent, share, each in lines)


def build_trace(folder: Path, rank: int, *, wanted: bool) -> profile | NoTrace:
    """Return a profiler that writes a trace of three steps to a folder; enter it, and call its `step()` after each.

    Args:
        folder: That of the run, where TensorBoard's plugin looks for it.
        rank: This process, which names the file.
        wanted: Whether to write any.
    """
    if not wanted:
        return NoTrace()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it prints a line at each start and end
    return profile(
        schedule=schedule(skip_first=WARM_UP_STEPS, wait=0, warmup=1, active=3, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), worker_name=f"rank{rank}", use_gzip=True),
        record_shapes=True,
    )


def forecast(
    seconds: dict[str, float], *, steps: int, steps_left: int, global_batch_size: int, reading_advice: str
) -> str:
    """Return a line that says how fast a run is, how long it will train, and what limits it.

    Args:
        seconds: Seconds of each section in some steps of training.
        steps: How many steps those were.
        steps_left: Steps until the run ends.
        global_batch_size: Images a step.
        reading_advice: What would make reading faster.
    """
    total = sum(seconds.values())
    shares = {section: value / total for section, value in seconds.items()}
    model = shares["forward"] + shares["backward"]
    parts = {"model": model} | {name: share for name, share in shares.items() if name not in ("forward", "backward")}
    largest = max(parts, key=parts.__getitem__)
    limit = f"reading images limits it: {reading_advice} would help" if largest == DATA else f"the {largest} limits it"
    return (
        f"speed {global_batch_size * steps / total:,.0f} img/s, {1000 * total / steps:,.0f} ms a step: "
        f"{_duration(steps_left * total / steps)} of training left, without evaluations; "
        f"model {model:.0%}, data wait {shares[DATA]:.0%}, loss {shares['loss']:.1%}: {limit}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
