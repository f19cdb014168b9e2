"""11 · Transformer block — what a block is made of, and what is left when a part is taken out."""

from collections.abc import Callable

from engine.chapters import c11_block as cards
from engine.chapters.c05_sampling import lens
from engine.chapters.c11_block.questions import ASKED
from engine.checkpoints.catalogue import BUNDLED
from engine.evidence.card import Card
from engine.model import interventions as iv
from engine.model.adapters import Spec
from engine.model.parts import block_parts, model_parts
from engine.model.precisions import REFERENCE
from engine.ops.sampling import top
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter, words


def design(view: View) -> Callable[[], Card]:
    parts = [*model_parts(view.loaded), *block_parts(view.loaded, 0)]
    order = [
        "embedding",
        "positions",
        "attn_norm",
        "attention",
        "mlp_norm",
        "mlp",
        "final_norm",
        "unembedding",
    ]
    titles = {part.name: part.title for part in parts}
    names = [name for name in order if name in titles]
    with view.controls:
        chosen = view.segments(
            "part", "Part", names, "attention", lambda name: markdown(titles[name]), pills=True
        )
    return lambda: cards.diagram(view.loaded, view.state.layer, chosen)


def parameters(view: View) -> Callable[[], Card]:
    return lambda: cards.parameters(view.loaded)


def ledger(view: View) -> Callable[[], Card]:
    with view.controls:
        word = words.field(view, "word", "Whose logit (empty: the favourite's)")

    def make() -> Card:
        trace, position = view.trace, view.state.focus
        target = word.token.id if word else int(top(trace.logits[position], 1)[0])
        return cards.residual_ledger(view.loaded, trace, position, target)

    return make


def norms(view: View) -> Callable[[], Card]:
    return lambda: cards.stream_norms(view.loaded, view.trace, view.state.focus)


def grid(view: View) -> Callable[[], Card]:
    return lambda: lens.layers(view.loaded, view.trace, view.state.focus)


def whole(spec: Spec) -> dict[str, tuple[iv.Intervention, ...]]:
    """What can be taken out of all blocks, or out of the model once."""
    every, place = range(spec.n_layer), "behind" if spec.norms == "behind" else "before"
    parts: dict[str, tuple[iv.Intervention, ...]] = {
        "the causal mask": (iv.NoCausalMask(),),
        "positions": (iv.ZeroPositions(),),
        "the final norm": (iv.SkipNorm("final"),),
        f"all norms {place} attention": tuple(iv.SkipNorm("attention", i) for i in every),
        f"all norms {place} MLPs": tuple(iv.SkipNorm("mlp", i) for i in every),
        "all attention": tuple(iv.SkipAttention(i) for i in every),
        "all MLPs": tuple(iv.SkipMlp(i) for i in every),
    }
    if spec.own_mask:
        del parts["the causal mask"]
    if spec.norms == "shared":
        del parts["all norms before MLPs"]
        parts["all norms of the blocks"] = parts.pop("all norms before attention")
    return parts


def single(layer: int, parallel: bool) -> dict[str, iv.Intervention]:
    """What can be taken out of one block."""
    parts: dict[str, iv.Intervention] = {
        "attention": iv.SkipAttention(layer),
        "MLP": iv.SkipMlp(layer),
        "the residual path around attention": iv.DropResidual(layer, "attention"),
    }
    if not parallel:
        parts["the residual path around MLP"] = iv.DropResidual(layer, "mlp")
    return parts


def apart(view: View) -> Callable[[], list[Card]]:
    spec, layer = view.loaded.spec, view.state.layer
    parts, here = whole(spec), single(layer, spec.parallel)
    every = [(at, head) for at in range(spec.n_layer) for head in range(spec.n_head)]
    with view.controls:
        out = view.several("out", "Take out", list(parts), ["positions"], of=tuple(parts), pills=True)
        some = view.several("block", f"and of block {layer}", list(here), of=tuple(here), pills=True)
        heads = view.several(
            "heads", "and these heads", every, (), lambda one: f"L{one[0]} H{one[1]}", of=len(every)
        )
    interventions = (*(item for name in out for item in parts[name]), *(here[name] for name in some))
    if heads:
        interventions += (iv.AblateHeads(tuple(heads)),)
    few = [f"L{at} H{head}" for at, head in heads]
    names = [*out, *(f"{name} {layer}" for name in some), *(few if len(few) < 4 else [f"{len(few)} heads"])]
    removed = " and ".join(names) or "nothing"

    def make() -> list[Card]:
        changed = view.capture(interventions=interventions)
        return [
            cards.apart(view.loaded, view.trace, changed, removed, interventions),
            cards.told(view.loaded, view.trace, removed, interventions),
        ]

    return make


def designs(view: View) -> Callable[[], Card]:
    other = next(c.name for c in BUNDLED[::-1] if c.name != view.loaded.name)
    return lambda: cards.two_designs(view.loaded, view.load(checkpoint=other, precision=REFERENCE))


def scale(view: View) -> Callable[[], Card]:
    return lambda: cards.scale(view.loaded)


def order(view: View) -> str:
    spec = view.loaded.spec
    if spec.parallel:
        norm = "through one norm" if spec.norms == "shared" else "each through its own norm"
        how = f"Both sublayers read the same stream, {norm}, and their writes are added together."
    elif spec.norms == "behind":
        how = (
            "Attention reads the stream as it is, and what it writes goes through a norm before it is added; the MLP "
            "then does the same with the sum."
        )
    else:
        how = "Attention reads the stream through a norm and adds its write; the MLP then does the same with the sum."
    return f"""
    {markdown(view.loaded.name)} is {spec.n_layer} blocks of the same shape between an embedding and an unembedding.
    {how} The stream itself passes every block unchanged but for what is added, which is why it is called the
    *residual stream*. Choose a part to see its equation and the shapes of its weights.
    """


def growth(view: View) -> str:
    place = (
        "The norm behind each sublayer brings what it writes to a standard size, whatever the size of what it read."
        if view.loaded.spec.norms == "behind"
        else "The norm before each sublayer brings the stream to a standard size, so a sublayer sees directions, not "
        "lengths."
    )
    return f"""
    {place}
    The stream itself is never scaled back: what is written stays, and later writes have to be large to matter.
    {
        "LayerNorm subtracts the mean and divides by the standard deviation"
        if view.loaded.spec.centred
        else "RMSNorm divides by the root mean square"
    }, then multiplies by a
    learned gain.
    """


chapter(
    number=11,
    title="Transformer block",
    question="What is one block, and what would be missing without each of its parts?",
    lead="Norm, attention, norm, MLP: a transformer is this block, repeated. Everything it does is to add vectors to a "
    "running sum. So the answer can be taken apart into what each part added, and each part can be left out.",
    bar=("focus", "layer"),
    beats=[
        Beat(
            "design",
            "A block reads the stream twice and adds to it twice",
            prose=order,
            draw=design,
            try_this="Choose the MLP and compare its trained numbers with those of attention.",
        ),
        Beat(
            "parameters",
            "Every trained number is in one of these parts",
            prose="""
            Counted tensor by tensor, all blocks together. A tied unembedding uses the embedding's own matrix, so it
            is counted once. Norms are there for every block and weigh next to nothing.
            """,
            draw=parameters,
            try_this="Open the table: the shares sum to one, and the counts to the model's `num_parameters()`.",
        ),
        Beat(
            "ledger",
            "A logit is a sum, and every part has its line in it",
            prose="""
            The last stream is the token's embedding plus everything that attention and the MLPs wrote. A norm and a
            dot product turn it into a logit. Hold the norm's scale at the value it took, and that logit splits into
            one signed entry for each write, exactly. A large entry says that this part pushed the logit here; it does
            not say why.
            """,
            draw=ledger,
            try_this="Ask for the logit of a token that does not fit, and look at who argued against it.",
        ),
        Beat(
            "norms",
            "The stream is never scaled back",
            prose=growth,
            draw=norms,
            try_this="Choose the first token in the bar: in many models it is unlike the others.",
        ),
        Beat(
            "grid",
            "Read early, the stream already holds a guess",
            prose="""
            The final norm and the unembedding can be put on the stream after any block. Early rows are rough, because
            the later blocks were trained to finish the work, and the readout was never trained for them. This is the
            logit lens
            ([nostalgebraist 2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens)).
            """,
            draw=grid,
            try_this="Choose another token in the bar and see at which block its guess settles.",
        ),
        Beat(
            "apart",
            "Take a part out, and see what it was for",
            prose="""
            Each switch changes one forward pass; the loaded model stays as it is. Without the mask, tokens see the
            future they were never trained to see. Without positions, the order of words is known only through the
            mask. Without a residual path, a block has to repeat in its write everything that later blocks need. Below
            the figure, both models go on writing.
            """,
            draw=apart,
            try_this="Take out some heads, then all MLPs, then one residual path. Which one hurts least?",
        ),
        Beat(
            "designs",
            "Two designs, the same plan",
            prose="""
            From GPT-2 ([Radford et al. 2019](https://github.com/openai/gpt-2)) to Llama
            ([Touvron et al. 2023](https://arxiv.org/abs/2302.13971)) positions, norm, activation and MLP were
            exchanged. The plan stayed: embed, add attention, add an MLP, repeat, unembed.
            """,
            draw=designs,
        ),
        Beat(
            "scale",
            "Larger models spend their numbers elsewhere",
            prose="""
            An embedding grows with the vocabulary and the width; a block grows with the width squared. So in a small
            model the vocabulary is a large share, and in a large one it vanishes beside attention and the MLPs.
            """,
            draw=scale,
        ),
    ],
    asks=ASKED,
)
