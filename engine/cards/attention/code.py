"""The *Code* scripts: each runs the model with transformers alone and takes one head apart with torch alone."""

from engine.cards.attention.head import LETTER, PARTS, Head, Part
from engine.evidence.script import preamble

_FLOATING = ("fp32", "bf16", "fp16")


def script(head: Head, *parts: str) -> str:
    """The checkpoint, the prompt, the head's q, k, v and weights, and then `parts`, which leave `result`."""
    lines = [preamble(head.loaded, head.trace.ids), _hooks(head), _run(head), _head(head), *parts]
    return "\n".join(part.strip("\n") + "\n" for part in lines)


def path(head: Head, name: str) -> str:
    """Where a module lives, from the model: as `model.get_submodule` takes it."""
    adapter = head.loaded.adapter
    if name in adapter.parts:
        return adapter.parts[name]
    return f"{adapter.parts['blocks']}.{head.layer}.{adapter.layer[name]}"


def _hooks(head: Head) -> str:
    names = ["q", "k", "v"] if head.loaded.adapter.qkv == "separate" else ["qkv"]
    watched = [*names, "attn_norm", "o_proj", "final_norm"]
    paths = "\n".join(f"    {name!r}: {path(head, name)!r}," for name in watched)
    return f"""
layer, head, kv_head, d_head = {head.layer}, {head.index}, {head.kv}, {head.loaded.spec.d_head}

watched = {{
{paths}
}}
took, gave = {{}}, {{}}  # what went into each module, and what came out

def watch(part):
    def hook(module, args, output):
        took[part], gave[part] = args[0], output
    model.get_submodule(watched[part]).register_forward_hook(hook)

for part in watched:
    watch(part)
"""


def _run(head: Head) -> str:
    return """
with torch.no_grad():
    out = model(ids, output_attentions=True, output_hidden_states=True)
seq = ids.shape[1]
weights = out.attentions[layer][0, head].float()  # (query, key)
"""


def _head(head: Head) -> str:
    split = {
        "separate": 'q, k, v = (gave[name][0].reshape(seq, -1, d_head).transpose(0, 1) for name in ("q", "k", "v"))',
        "split": 'q, k, v = (x.reshape(seq, -1, d_head).transpose(0, 1) for x in gave["qkv"][0].chunk(3, dim=-1))',
        "interleaved": 'q, k, v = gave["qkv"][0].reshape(seq, -1, 3 * d_head).transpose(0, 1).chunk(3, dim=-1)',
    }[head.loaded.adapter.qkv]
    rotation = ""
    if head.rotary:
        module = type(head.loaded.part("attention", head.layer)).__module__
        rotation = f"""
from {module} import apply_rotary_pos_emb

rotary = model.get_submodule({path(head, "rotary")!r})
with torch.no_grad():
    cos, sin = rotary(gave["attn_norm"], torch.arange(seq, device=ids.device)[None])
q, k = (x[0] for x in apply_rotary_pos_emb(q[None], k[None], cos, sin))  # RoPE
"""
    return f"""
{split}
before = {{"query": q[head].float(), "key": k[kv_head].float(), "value": v[kv_head].float()}}
{rotation}
q, k, v = q[head].float(), k[kv_head].float(), v[kv_head].float()  # seq, d_head
scores = q @ k.T / d_head**0.5  # query, key
future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
"""


def projection(head: Head, part: Part) -> str:
    """Lines that leave `x` (seq, d_model), `W` (d_model, d_head) and `b` (d_head) of the head's q, k or v."""
    place, adapter = PARTS.index(part), head.loaded.adapter
    own = "head" if part == "query" else "kv_head"
    module = f"{LETTER[part]}_proj" if adapter.qkv == "separate" else "qkv"
    start = {
        "separate": f"{own} * d_head",
        "split": f"({place} * {head.loaded.spec.n_head} + {own}) * d_head",
        "interleaved": f"({own} * 3 + {place}) * d_head",
    }[adapter.qkv]
    return f"""
projection = model.get_submodule({path(head, module)!r})
x = gave["attn_norm"][0].float()  # the residual stream behind the norm before attention
{_matrix(head, "projection", "W")}
start = {start}
W = W[:, start : start + d_head]
b = torch.zeros(d_head) if projection.bias is None else projection.bias.detach().float()[start : start + d_head]
"""


def output_matrix(head: Head) -> str:
    """Lines that leave `z` (seq, d_head), `W_O` (d_head, d_model) and `write` (seq, d_model)."""
    return f"""
o_proj = model.get_submodule({path(head, "o_proj")!r})
{_matrix(head, "o_proj", "W_O")}
own = slice(head * d_head, (head + 1) * d_head)
W_O = W_O[own]  # this head's rows
z = took["o_proj"][0, :, own].float()  # the head's output, as the model feeds it to the projection
write = z @ W_O
"""


def _matrix(head: Head, module: str, name: str) -> str:
    """W of x·W + b from a module: stored so by GPT-2's Conv1D, transposed by a linear layer, else answered."""
    if head.loaded.precision in _FLOATING:
        transposed = "" if head.loaded.spec.model_type == "gpt2" else ".T"
        return f"{name} = {module}.weight.detach().float(){transposed}"
    return f"""
with torch.no_grad():  # quantized: the rows are what the layer answers to the unit vectors
    units = torch.eye({module}.in_features, dtype={head.loaded.half})
    {name} = {module}(units).float() - (0 if {module}.bias is None else {module}.bias.float())
""".strip()
