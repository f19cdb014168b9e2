"""11 · Transformer block — what a block is made of, and what is left when a part is taken out."""

from collections.abc import Callable

from engine.chapters import c11_block as cards
from engine.chapters.c05_sampling import lens
from engine.chapters.c11_block.questions import ASKED
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
        whole = cards.foldable(view.loaded) and view.toggle("whole", "Every part by itself")

    def make() -> Card:
        trace, position = view.trace, view.state.focus
        target = word.token.id if word else int(top(trace.logits[position], 1)[0])
        return cards.residual_ledger(view.loaded, trace, position, target, whole)

    return make


def norms(view: View) -> Callable[[], Card]:
    return lambda: cards.stream_norms(view.loaded, view.trace, view.state.focus)


def grid(view: View) -> Callable[[], Card]:
    folded = view.loaded.spec.n_layer >= lens.ROWS
    if folded:
        with view.controls:
            folded = not view.toggle("every", "Show every block")
    return lambda: lens.layers(view.loaded, view.trace, view.state.focus, folded=folded)


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
    return lambda: cards.two_designs(
        view.loaded, view.load(checkpoint=cards.unlike(view.loaded), precision=REFERENCE)
    )


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
    {markdown(view.loaded.name)} is {spec.n_layer} blocks of the same shape between an embedding, which turns tokens
    into vectors, and an unembedding, which turns vectors into logits. {how} A block changes the stream only by what
    it adds, which is why the stream is called the *residual stream*. Choose a part to see its equation and the shapes
    of its weights.
    """


def growth(view: View) -> str:
    return cards.about_norms(view.loaded)


def counting(view: View) -> str:
    tied = (
        "The unembedding is *tied*: it uses the embedding's own matrix, which is counted once."
        if view.loaded.spec.tied
        else "The unembedding has a matrix of its own."
    )
    return f"""
    The bars count every trained number of {markdown(view.loaded.name)}, tensor by tensor, all blocks together. {tied}
    Every block has norms, but they hold next to no numbers.
    """


def summands(view: View) -> str:
    start = "embedding of the token"
    if view.loaded.spec.positions == "learned":
        start += " and of its position"
    return f"""
    The residual stream after the last block is the {start}, plus everything that attention and the MLPs added. A norm
    and a dot product turn it into a logit. Keep the norm's scale at the value it took, and that logit splits exactly
    into one signed entry for each addition. A large entry says that this part pushed the logit here; it does not say
    why.
    """


def descent(view: View) -> str:
    return f"""
    Between GPT-2 ([Radford et al. 2019](https://github.com/openai/gpt-2)) and Llama
    ([Touvron et al. 2023](https://arxiv.org/abs/2302.13971)), positions, norm, activation and MLP were replaced. The
    plan stayed: embed, add attention, add an MLP, repeat, unembed. The table sets {markdown(view.loaded.name)} beside
    {markdown(cards.unlike(view.loaded))}, choice by choice.
    """


chapter(
    number=11,
    title="Transformer block",
    question="What is one block, and what would be missing without each of its parts?",
    lead="Norm, attention, norm, MLP: a transformer is this block, repeated. All that a block does is add vectors to a "
    "running sum. The answer can therefore be split into what each part added, and each part can be left out.",
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
            prose=counting,
            draw=parameters,
            try_this="Open the table: the shares sum to one, and the counts to the model's `num_parameters()`.",
        ),
        Beat(
            "ledger",
            "A logit is a sum, and every part has its line in it",
            prose=summands,
            draw=ledger,
            try_this="Ask for the logit of a token that does not fit, and see which parts pushed it down.",
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
            The final norm and the unembedding can be applied to the stream after any block. What they read early is
            rough: later blocks still change the stream, and both were trained only on what the last block leaves. This
            is the *logit lens*
            ([nostalgebraist 2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens)).
            """,
            draw=grid,
            try_this="Choose another token in the bar and see at which block its guess settles.",
        ),
        Beat(
            "apart",
            "Take a part out, and see what it was for",
            prose="""
            Each switch below takes a part out of one forward pass; the loaded model stays as it is. Without the mask,
            tokens attend to later ones, which they never could in training. Without positions, only the mask tells
            anything about the order of the words. Without a residual path, what later blocks need is lost unless the
            block itself writes it again. Under the bars, the intact and the changed model both go on writing.
            """,
            draw=apart,
            try_this="Take out some heads, then all MLPs, then one residual path. Which one hurts least?",
        ),
        Beat(
            "designs",
            "Two designs, the same plan",
            prose=descent,
            draw=designs,
        ),
        Beat(
            "scale",
            "Larger models spend their numbers elsewhere",
            prose="""
            An embedding grows with the vocabulary and the width of the model; a block grows with the width squared.
            So the vocabulary is a large share of a small model, and a small share of a large one.
            """,
            draw=scale,
        ),
    ],
    asks=ASKED,
    parts=("attention", "mlp"),
)
