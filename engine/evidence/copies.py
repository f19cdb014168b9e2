"""A second path to what the cards about neurons show: private copies of the model, and the lines of *Code* scripts."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.evidence.passes import logits_of
from engine.evidence.script import preamble
from engine.model.loaded import Loaded, tensors
from engine.model.trace import Array


def private_copy(loaded: Loaded) -> Any:
    """A copy of the model whose modules may be hooked and replaced; it shares every weight with the model.

    The 8-bit codes too: bitsandbytes points the weight of a layer to the codes that it has just used.
    """
    shared = {id(tensor): tensor for tensor in tensors(loaded.model)}
    return copy.deepcopy(loaded.model, shared)


def hooked(loaded: Loaded, ids: Sequence[int], layer: int, *names: str) -> dict[str, Array]:
    """What leaves the named modules of a block in a new run, (seq, width) each; "down_proj" gives what enters it.

    The hooks are put on a private copy: the shared model's modules stay as they are.
    """
    model, seen = private_copy(loaded), {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            tensor = args[0] if name == "down_proj" else output
            seen[name] = tensor[0].detach().to("cpu", torch.float32).numpy()

        return hook

    for name in names:
        model.get_submodule(loaded.path(name, layer)).register_forward_hook(watch(name))
    logits_of(model, ids)
    return seen


def watched(loaded: Loaded, ids: Sequence[int], layer: int, *names: str) -> str:
    """The head of a script: the model runs once; `took` and `gave` hold what entered and left the named modules."""
    places = {name: loaded.path(name, layer) for name in names}
    return preamble(loaded, ids) + _WATCH.format(places=places)


_WATCH = """
took, gave = {{}}, {{}}  # what entered and what left each module, (seq, width)


def watch(name, module):
    def hook(module, args, output):
        took[name], gave[name] = args[0][0].float(), output[0].float()

    module.register_forward_hook(hook)


places = {places}
for name, place in places.items():
    watch(name, model.get_submodule(place))
with torch.no_grad():
    logits = model(ids, use_cache=False).logits[0].float()
"""


def matrix_lines(loaded: Loaded, name: str, variable: str) -> str:
    """Script lines that leave W (inputs, outputs) and its bias of a watched module: `variable` and `variable`_bias."""
    module = f"model.get_submodule(places[{name!r}])"
    bias = f"{variable}_bias = 0 if {module}.bias is None else {module}.bias.detach().float()\n"
    if not loaded.quantized:
        return f"{variable} = {loaded.adapter.weight_lines(module)}\n{bias}"
    units = f"torch.eye({module}.in_features, dtype={loaded.half})"
    return (
        f"{bias}with torch.no_grad():  # quantized: the rows are what it answers to unit vectors (forward: no hook)\n"
        f"    {variable} = {module}.forward({units}).float() - {variable}_bias\n"
    )
