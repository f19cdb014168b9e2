"""8 · Attention: Q, K, V — how a token looks back at others."""

from collections.abc import Callable

from engine.chapters import c08_attention as cards
from engine.chapters.c08_attention.questions import ASKED
from engine.evidence.card import Card
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter

STAGE_NAMES = {"scores": "Scores", "masked": "Masked", "weights": "Softmax"}


def for_head(card: Callable[..., Card]) -> Callable[[View], Callable[[], Card]]:
    """A beat that shows one card and has no controls but those of the bar."""

    def draw(view: View) -> Callable[[], Card]:
        return lambda: card(view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus)

    return draw


def projection(view: View) -> Callable[[], Card]:
    with view.controls:
        part = view.segments("part", "Vector", cards.PARTS)
        dimension = view.slider(
            "dimension", "Dimension to frame", 0, view.loaded.spec.d_head - 1, 0, of=view.loaded.spec.d_head
        )
    return lambda: cards.projection(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, part, dimension
    )


def vectors(view: View) -> Callable[[], Card]:
    rotated = True
    with view.controls:
        if view.loaded.spec.positions == "rotary":
            rotated = view.toggle("rotated", "After RoPE", True)
    return lambda: cards.vectors(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, rotated
    )


def product(view: View) -> Callable[[], Card]:
    tokens = view.tokens
    with view.controls:
        key = view.select(
            "key",
            "Key token",
            range(len(tokens)),
            format_func=lambda i: f"{i}  {shorten(tokens[i].display, 24)}",
        )
    return lambda: cards.product(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, key
    )


def row(view: View) -> Callable[[], Card]:
    with view.controls:
        causal = view.toggle("mask", "Causal mask", True)
        scaled = not view.loaded.spec.scaled or view.toggle("scale", "Scale by 1/√d_head", True)
    return lambda: cards.row(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, causal, scaled
    )


def head_map(view: View) -> Callable[[], Card]:
    with view.controls:
        stage = view.segments("stage", "Show", cards.STAGES, "weights", STAGE_NAMES.__getitem__)
    return lambda: cards.head_map(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, stage
    )


def walk(view: View) -> Callable[[], Card]:
    names = [f"{i}. {name}" for i, name in enumerate(cards.STEPS, 1)]
    with view.controls:
        step = view.select_slider("step", "Step", names, names[0])
    return lambda: cards.walk(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, names.index(step) + 1
    )


def focus(view: View) -> str:
    """The focus token as markdown."""
    return f"**{markdown(view.tokens[view.state.focus].display)}**"


def projection_prose(view: View) -> str:
    spec = view.loaded.spec
    groups = spec.n_head // spec.n_kv_head
    shared = (
        f"Here {spec.n_head} query heads share {spec.n_kv_head} key/value heads (grouped-query attention): "
        f"head {view.state.head} reads kv_head {view.state.head // groups}."
        if groups > 1
        else f"Each of the {spec.n_head} heads has its own three matrices."
    )
    place = (
        "as it enters the block"
        if spec.norms == "behind"
        else f"behind the block’s {'first ' if spec.norms == 'before' else ''}{spec.norm}"
    )
    return f"""
        Every head makes three vectors from a token: a **query** (what am I looking for?), a **key** (what can be
        found at me?) and a **value** (what do I hand over?). All start from the same x, the residual stream
        {place}; a learned matrix each turns its {spec.d_model} numbers into {spec.d_head},
        one column for one number. {shared}
    """


def vectors_prose(view: View) -> str:
    rotary = (
        "This model has RoPE: after the projection each query and key is rotated by an angle that grows with its "
        "position, and what you see is what enters the dot product. Values are not rotated. "
        "(RoPE has a chapter of its own, number 10.)"
        if view.loaded.spec.positions == "rotary"
        else "In this model positions were added to the embeddings at the very bottom, so queries and keys are used "
        "exactly as they leave the projection."
    )
    return f"""
        The same three matrices are applied to every token at once, so there is a row here for each token of the
        prompt. The focus token, {focus(view)}, will use its **query**; from every token it may see it will need the
        **key** and the **value**. {rotary}
    """


def product_prose(view: View) -> str:
    d_head = view.loaded.spec.d_head
    scale = (
        f"More dimensions make larger sums, so the sum is divided by √d_head (here √{d_head} = {d_head**0.5:.3g}); the "
        "result is the **score**."
        if view.loaded.spec.scaled
        else "Most models divide the sum by √d_head, because more dimensions make larger sums; this one was trained "
        "without that, and the sum is its **score**."
    )
    return f"""
        How well does a key answer a query? Multiply them dimension by dimension and add up: a **dot product**. It is
        large when the two point the same way, negative when they point apart. {scale}
    """


def row_prose(view: View) -> str:
    seen, count = view.state.focus + 1, len(view.tokens)
    return f"""
        {focus(view)} has a score for every key. It was trained to predict what comes next, so it must not see what
        comes next: the **causal mask** replaces the scores of later keys with −∞. From position {view.state.focus} it
        sees {seen} of {count} keys. **Softmax** (e to the power of each score, divided by the sum of them all) then
        makes the rest into weights that are positive and add up to 1.
    """


def map_prose(view: View) -> str:
    count = len(view.tokens)
    return f"""
        One row for each query, one column for each key: {count} × {count} scores in one matrix product, q·kᵀ. The row
        of the focus token is framed. The mask takes away the upper triangle; softmax goes row by row, so a row adds up
        to 1 and a column need not. The first token can look at nothing but itself.
    """


def values_prose(view: View) -> str:
    return f"""
        The weights say where {focus(view)} looks; the **values** say what it finds there. Each visible value is
        multiplied by its weight, and the sum of them is the head’s **output**. Weight and effect are not the same: a
        key with a large weight and a short value hands over little, and two values can cancel. The bars on the right
        measure what is left of each in the sum.
    """


def output_prose(view: View) -> str:
    spec = view.loaded.spec
    return f"""
        The output has {spec.d_head} numbers; the residual stream has {spec.d_model}. The **output projection** W_O
        leads back, and every head owns {spec.d_head} of its rows. The product is what this head writes: it is added to
        the residual stream at {focus(view)}, together with the writes of the {spec.n_head - 1} other heads of the
        layer.
    """


def promoted_prose(view: View) -> str:
    norm = view.loaded.spec.norm
    centred = "centred, divided by the scale" if view.loaded.spec.centred else "divided by the scale"
    return f"""
        A direction in the residual stream is also a vote on the next token. Here the head’s write at {focus(view)}
        goes straight to the end: {centred} that the final {norm} measures on the **whole** residual stream of this
        token (the scale is held, not measured again on the write), times the norm’s weights, times the unembedding.
        This is the **direct** effect on the logits only: later blocks read this write too, and what they make of it
        is not in this figure.
    """


chapter(
    number=8,
    title="Attention: Q, K, V",
    question="How does a token decide where to look?",
    lead=(
        "Attention is the only place in the model where one token’s vector can take something from another’s. "
        "This chapter takes one head apart, from the vector it reads to the vector it writes, "
        "for one token of your prompt: the focus token, which asks the question."
    ),
    beats=[
        Beat(
            "projection",
            "One vector becomes a query, a key and a value",
            prose=projection_prose,
            draw=projection,
            try_this="Move the framed dimension: another column of the matrix, another number of the result. "
            "Then change the head: x stays, the matrix is another one.",
        ),
        Beat(
            "vectors",
            "Every token gets all three",
            prose=vectors_prose,
            draw=vectors,
            try_this="Use a word twice in the prompt. In layer 0 its values may still be alike; "
            "go to the last layer and compare them again.",
        ),
        Beat(
            "product",
            "A score is a dot product",
            prose=product_prose,
            draw=product,
            try_this="Compare two keys that are far apart in score. Is the sum made by a few dimensions or by many?",
        ),
        Beat(
            "row",
            "The mask hides the future, softmax makes weights",
            prose=row_prose,
            draw=row,
            try_this="Choose an early query token and switch the mask off: the weight moves to tokens it must not see. "
            "Then leave the scale out: the larger numbers push softmax towards a single key.",
        ),
        Beat(
            "map",
            "All queries at once make the head’s map",
            prose=map_prose,
            draw=head_map,
            try_this="Look for a head whose weights lie on the diagonal just below the main one: "
            "every token looks at the one before it.",
        ),
        Beat(
            "values",
            "The output is a weighted sum of values",
            prose=values_prose,
            draw=for_head(cards.values),
            try_this="Find a key whose share is clearly smaller than its weight. Its value is short, "
            "or points away from the sum; the table has its length.",
        ),
        Beat(
            "output",
            "The head writes back to the residual stream",
            prose=output_prose,
            draw=for_head(cards.output_projection),
            try_this="Compare the length of this write (below the figure) with that of all heads together. "
            "Which head of the layer writes most here?",
        ),
        Beat(
            "promoted",
            "What it writes votes for some tokens and against others",
            prose=promoted_prose,
            draw=for_head(cards.promoted),
            try_this="Compare a head of the first layer with one of the last. "
            "Whose promoted tokens look more like a continuation of the prompt?",
        ),
        Beat(
            "walk",
            "From one query to one write in seven steps",
            prose="Everything above, for the focus token, in one figure. Move through the steps: each one needs "
            "nothing but the strips above it, the keys and values of the tokens, and the head’s rows of W_O.",
            draw=walk,
            try_this="Stop at step 5, click another token in the strip at the top of the page, "
            "and see where that one looks.",
        ),
    ],
    asks=ASKED,
)
