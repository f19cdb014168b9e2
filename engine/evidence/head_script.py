"""The *Code* scripts: each runs the model with transformers alone and takes one head apart with torch alone."""

from engine.evidence.script import preamble
from engine.model.head import Head, Part


def script(head: Head, *parts: str) -> str:
    """The checkpoint, the prompt, the head's q, k, v and weights, and then `parts`, which leave `result`."""
    lines = [preamble(head.loaded, head.trace.ids), _hooks(head), _run(head), _head(head), *parts]
    return "\n".join(part.strip("\n") + "\n" for part in lines)


def path(head: Head, name: str) -> str:
    """Where a module lives, from the model: as `model.get_submodule` takes it."""
    return head.loaded.path(name, head.layer if head.loaded.adapter.in_block(name) else None)


def _hooks(head: Head) -> str:
    watched = [*head.loaded.adapter.projections, "attn_norm", "o_proj", "final_norm"]
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
    rotation = ""
    if head.rotary:
        turn = head.loaded.adapter.rotation_lines(head.loaded.part("attention", head.layer))
        rotation = f"""
{turn}

rotary = model.get_submodule({path(head, "rotary")!r})
with torch.no_grad():
    cos, sin = rotary(gave["attn_norm"], torch.arange(seq, device=ids.device)[None])
q, k = (x[0] for x in apply_rotary_pos_emb(q[None], k[None], cos, sin))  # RoPE
"""
    return f"""
{head.loaded.adapter.heads_lines}
before = {{"query": q[head].float(), "key": k[kv_head].float(), "value": v[kv_head].float()}}
{rotation}
q, k, v = q[head].float(), k[kv_head].float(), v[kv_head].float()  # seq, d_head
scale = {"d_head**-0.5" if head.loaded.spec.scaled else "1.0  # this architecture does not scale its scores"}
scores = q @ k.T * scale  # query, key
future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
"""


def projection(head: Head, part: Part) -> str:
    """Lines that leave `x` (seq, d_model), `W` (d_model, d_head) and `b` (d_head) of the head's q, k or v."""
    spec = head.loaded.spec
    module, start = head.loaded.adapter.columns(part, spec, head.index, head.kv)
    read = (
        "out.hidden_states[layer][0].float()  # the residual stream as it is"
        if spec.norms == "behind"
        else 'gave["attn_norm"][0].float()  # the residual stream behind the norm before attention'
    )
    return f"""
projection = model.get_submodule({path(head, module)!r})
x = {read}
{_matrix(head, "projection", "W")}
start = {start}  # of the head’s columns
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
    if not head.loaded.quantized:
        return f"{name} = {head.loaded.adapter.weight_lines(module)}"
    return f"""
with torch.no_grad():  # quantized: the rows are what it answers to unit vectors (forward: no hook)
    units = torch.eye({module}.in_features, dtype={head.loaded.half})
    {name} = {module}.forward(units).float() - (0 if {module}.bias is None else {module}.bias.float())
""".strip()
