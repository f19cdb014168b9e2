"""Wall-clock measurements that show their own noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Repeats of one measurement, in milliseconds."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def low(self) -> float:
        """First quartile."""
        return float(np.percentile(self.milliseconds, 25))

    @property
    def high(self) -> float:
        """Third quartile."""
        return float(np.percentile(self.milliseconds, 75))


def repeated(work: Callable[[], Any], repeats: int = 7, warm_up: int = 1) -> Timing:
    """Time `work` several times after `warm_up` runs that do not count."""
    for _ in range(warm_up):
        work()
    return Timing(tuple(once(work) for _ in range(repeats)))


def once(work: Callable[[], Any]) -> float:
    """Milliseconds of one run, waiting for the GPU where there is one."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return (time.perf_counter() - start) * 1000


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
