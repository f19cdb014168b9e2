"""The script that trains the same tiny model over its first steps."""

from engine.ops.optimizers import DECAY
from engine.tokens.passages import passage, sample
from engine.training.tiny_training import (
    BATCH,
    CONTEXT,
    D_MODEL,
    EARLY,
    EVERY,
    HEADS,
    TEMPERATURE,
    WARM_UP,
    WRITTEN,
    Settings,
    Snapshot,
)

REPEATED = 50
"""The script repeats so many steps; its reader may ask it for more."""


def repeated(snapshot: Snapshot) -> int:
    """How many steps the script takes."""
    return min(snapshot.steps, REPEATED)


def script(snapshot: Snapshot, wanted: str) -> str:
    """Source that leaves `result` with the lists named in `wanted`, of losses, held_out and texts."""
    settings, corpus = snapshot.settings, snapshot.corpus
    kept = ", ".join(f'"{name}": {name}' for name in wanted.split())
    return f"""import math

import torch
from transformers import GPT2Config, GPT2LMHeadModel

{_text(settings)}
STEPS = {repeated(snapshot)}  # the page shows {snapshot.steps}; ask for as many as you like
chars = sorted(set(text))
ids = torch.tensor([chars.index(char) for char in text])
train, held_out_ids = ids[:{corpus.cut}], ids[{corpus.cut}:]
rows = held_out_ids[: len(held_out_ids) // {CONTEXT} * {CONTEXT}].reshape(-1, {CONTEXT})

config = GPT2Config(
    vocab_size=len(chars), n_positions={CONTEXT}, n_embd={D_MODEL}, n_layer={settings.layers}, n_head={HEADS},
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)
model = GPT2LMHeadModel(config)  # norms start at 1, biases at 0
model.loss_type = "ForCausalLM"
random = torch.Generator().manual_seed({settings.seed})
with torch.no_grad():
    for name, p in model.named_parameters():
        if p.ndim == 2:
            smaller = math.sqrt({2 * settings.layers}) if name.endswith("c_proj.weight") else 1
            p.normal_(0.0, 0.02 / smaller, generator=random)
optimizer = torch.optim.AdamW(model.parameters(), lr={settings.rate}, weight_decay={DECAY}, fused=True)
draws = torch.rand({WRITTEN}, generator=torch.Generator().manual_seed({settings.seed}), dtype=torch.float64)


@torch.no_grad()
def write():
    written = train[:1].tolist()
    for u in draws:
        logits = model(torch.tensor([written[-{CONTEXT}:]]), use_cache=False).logits[0, -1].double()
        if not logits.isfinite().all():
            break
        reached = (logits / {TEMPERATURE}).softmax(-1).cumsum(-1)
        written.append(min(int(torch.searchsorted(reached, u, right=True)), len(chars) - 1))
    return "".join(chars[i] for i in written[1:])


losses, held_out, texts = [], [], []
for step in range(STEPS + 1):
    if step in {EARLY} or step % {EVERY} == 0:
        with torch.no_grad():
            held_out.append(model(rows, labels=rows, use_cache=False).loss.item())
        texts.append(write())
    if step == STEPS:
        break
    starts = torch.randint(0, len(train) - {CONTEXT - 1}, ({BATCH}, 1), generator=random)
    batch = train[starts + torch.arange({CONTEXT})]
    for group in optimizer.param_groups:
        group["lr"] = {settings.rate} * min(1.0, (step + 1) / {WARM_UP})
    loss = model(batch, labels=batch, use_cache=False).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if not math.isfinite(losses[-1]):
        break
result = {{{kept}}}
"""


def _text(settings: Settings) -> str:
    """The line, or lines, that define `text`."""
    for name, bundled in (("sample", sample()), ("passage", passage())):
        if settings.text == bundled:
            return f'text = open("engine/assets/texts/{name}.txt", encoding="utf-8").read()'
    pieces = [settings.text[i : i + 80] for i in range(0, len(settings.text), 80)]
    return "\n".join(["text = (", *(f"    {piece!a}" for piece in pieces), ")"])
