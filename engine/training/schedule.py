"""Learning rate over a run: warm-up, constant, linear decay to zero (WSD), and the steps worth a snapshot."""

from __future__ import annotations


def learning_rate(
    step: int, peak: float, warmup: int, decay_start: int | None = None, decay_steps: int = 0
) -> float:
    """Learning rate of update number ``step`` (0-based).

    Rises linearly to ``peak`` over ``warmup`` updates, stays there for as long as no decay is set, then falls
    linearly and reaches zero after ``decay_steps`` updates. The constant phase has no planned end, so a run can
    be continued at will and a decay branched off whenever a finished checkpoint is wanted.

    Source: Hu et al. 2024, MiniCPM, section 4 (warmup-stable-decay).
    """
    lr = peak * min(1.0, (step + 1) / warmup) if warmup > 0 else peak
    return lr * (1.0 - decay_progress(step, decay_start, decay_steps))


def decay_progress(step: int, decay_start: int | None, decay_steps: int) -> float:
    """Share of the decay phase that lies behind update ``step``: 0 before it and at its start, 1 at its end."""
    if decay_start is None or step < decay_start:
        return 0.0
    return min(1.0, (step - decay_start) / max(decay_steps, 1))


def is_snapshot_step(step: int, every: int = 0) -> bool:
    """Whether ``step`` is 0, a power of two or half-way (in the logarithm) between two; or a multiple of ``every``.

    0, 1, 2, 3, 4, 6, 8, 12, 16, 24, …: about logarithmic, so that the fast early changes are covered.
    """
    if step < 0:
        raise ValueError(f"A step is counted from 0; got {step}.")
    if every > 0 and step % every == 0:
        return True
    while step > 3 and step % 2 == 0:
        step //= 2
    return step <= 3
