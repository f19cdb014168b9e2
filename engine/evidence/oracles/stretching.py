"""A text read with another rule for the rotations, by transformers' own rotary module in a private copy."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from engine.evidence.copies import private_copy
from engine.evidence.oracles.reading import nats_of
from engine.model.loaded import Loaded


@torch.no_grad()
def nats_stretched(loaded: Loaded, ids: Sequence[int], rule: Mapping[str, Any]) -> torch.Tensor:
    """Surprisal (nats) of every token but the first, with `rule` put over the config's `rope_parameters`.

    transformers' "dynamic" rule takes θ·((f·n − (f − 1)·context)/context)^(d/(d − 2)) for n tokens beyond the context.
    """
    model = private_copy(loaded)
    place = loaded.path("rotary")
    own: Any = model.get_submodule(place)
    config = copy.deepcopy(model.config)
    config.rope_parameters = {**config.rope_parameters, **rule}
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, type(own)(config).to(model.device))
    batch = torch.tensor([list(ids)], device=model.device)
    return nats_of(model(input_ids=batch, use_cache=False).logits[0].float(), ids)
