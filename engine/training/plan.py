"""What a run was told to do: kept beside its state, so that it is continued as it was begun."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.training.architectures import ARCHITECTURES, Shape
from engine.training.checkpointing import save_json
from engine.training.data import Repeats

# What may change while a run goes on; everything else would make it a different run.
CHANGEABLE = frozenset(
    {
        "steps",
        "decay_start",
        "decay_steps",
        "induction_from",
        "recur_share",
        "tile_share",
        "random_share",
        "snapshot_every",
        "induction_every",
    }
)


@dataclass(frozen=True)
class Plan:
    """Settings of a run. Steps are updates, counted from 0; learning rates are those of the constant phase."""

    arch: str = "llama"
    shape: Shape = field(default_factory=Shape)
    seed: int = 1337
    batch: int = 16
    micro_batch: int = 16
    lr: float = 2e-3
    warmup: int = 60
    weight_decay: float = 0.05
    clip: float = 1.0
    precision: str = "bf16"
    mix: dict[str, float] = field(default_factory=lambda: {"adventure": 0.65, "children": 0.35})
    mix_at_end: dict[str, float] = field(default_factory=lambda: {"adventure": 0.40, "children": 0.60})
    steps: int | None = None
    decay_start: int | None = None
    decay_steps: int = 0
    induction_from: int | None = None
    recur_share: float = Repeats.recur_share
    tile_share: float = Repeats.tile_share
    random_share: float = Repeats.random_share
    induction_every: int = 30
    snapshot_every: int = 0

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"Unknown architecture {self.arch!r}: choose one of {', '.join(ARCHITECTURES)}.")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"Unknown precision {self.precision!r}: choose bf16 or fp32.")
        if self.batch % self.micro_batch:
            raise ValueError(
                f"A batch of {self.batch} cannot be cut into micro-batches of {self.micro_batch}."
            )

        _ = self.repeats  # refuses what is no share

    @property
    def repeats(self) -> Repeats:
        """What the induction mix does while it is on."""
        return Repeats(
            recur_share=self.recur_share, tile_share=self.tile_share, random_share=self.random_share
        )

    @property
    def last_step(self) -> int | None:
        """The step at which the run ends: after its decay, else after ``steps``, else never."""
        return self.steps if self.decay_start is None else self.decay_start + self.decay_steps

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.shape.context


def save_plan(path: Path, plan: Plan) -> None:
    """Write ``plan`` as JSON."""
    save_json(path, asdict(plan))


def load_plan(path: Path) -> Plan:
    """The plan that :func:`save_plan` wrote."""
    value = json.loads(path.read_text(encoding="utf-8"))
    return Plan(**{**value, "shape": Shape(**value["shape"])})


def parse_mix(text: str) -> dict[str, float]:
    """``children=0.35,adventure=0.65`` as shares that sum to 1.

    Raises argparse.ArgumentTypeError when it does not read as such.
    """
    try:
        shares = {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=share,name=share.") from error
    total = sum(shares.values())
    if total <= 0 or min(shares.values()) < 0:
        raise argparse.ArgumentTypeError("Shares are not negative and not all zero.")
    return {name: share / total for name, share in sorted(shares.items())}


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per setting; a setting that is not named stays as it is (or takes its default in a new run)."""
    parser.add_argument("--arch", choices=ARCHITECTURES)
    for size in fields(Shape):
        parser.add_argument("--" + size.name.replace("_", "-"), type=int)
    whole = ("seed", "batch", "micro_batch", "warmup", "steps", "induction_every", "snapshot_every")
    for name in whole:
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    for name in ("lr", "weight_decay", "clip", "recur_share", "tile_share", "random_share"):
        parser.add_argument("--" + name.replace("_", "-"), type=float)
    parser.add_argument("--precision", choices=("bf16", "fp32"))
    parser.add_argument("--mix", type=parse_mix, help="source shares in the constant phase: children=0.35,…")
    parser.add_argument("--mix-at-end", type=parse_mix, help="source shares that the decay phase moves to")
    parser.add_argument("--induction-from", help="step from which the induction mix is on, or 'now'")
    parser.add_argument("--decay-from-now", type=int, metavar="N", help="decay to zero over the next N steps")


def with_arguments(plan: Plan, args: argparse.Namespace, step: int, *, new: bool) -> Plan:
    """``plan`` with the options named on the command line; ``step`` is where the run stands.

    Raises ValueError when an option would change what a run already begun (``new`` false) has to keep.
    """
    sizes = {f.name: getattr(args, f.name) for f in fields(Shape) if getattr(args, f.name) is not None}
    changes: dict[str, Any] = {"shape": replace(plan.shape, **sizes)}
    for setting in fields(Plan):
        value = getattr(args, setting.name, None)
        if value is not None and setting.name != "shape":
            changes[setting.name] = value
    if args.induction_from is not None:
        changes["induction_from"] = _induction_step(args.induction_from, plan, step)
    if args.decay_from_now is not None:
        changes |= _decay(args.decay_from_now, plan, step)
    if new and args.batch is not None and args.micro_batch is None:
        changes["micro_batch"] = args.batch
    if not new:
        fixed = sorted(k for k, v in changes.items() if k not in CHANGEABLE and v != getattr(plan, k))
        if fixed:
            raise ValueError(
                f"This run was begun with another {', '.join(fixed)}; begin a new one in another --out."
            )
    return replace(plan, **changes)


def _induction_step(text: str, plan: Plan, step: int) -> int:
    """Where the mix begins; 'now' given again after a kill does not move it."""
    if text != "now":
        return int(text)
    return step if plan.induction_from is None else plan.induction_from


def _decay(steps: int, plan: Plan, step: int) -> dict[str, int]:
    """Where the decay begins; the same order given again after a kill does not begin it anew."""
    if plan.decay_start is None:
        return {"decay_start": step, "decay_steps": steps}
    if plan.decay_steps != steps:
        raise ValueError(f"A decay of {plan.decay_steps} steps began at step {plan.decay_start} and goes on.")
    return {}
