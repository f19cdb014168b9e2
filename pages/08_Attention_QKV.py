"""8 · Attention: Q, K, V — how a token looks back at others."""

from collections.abc import Callable, Hashable

from engine.chapters import c08_attention as cards
from engine.chapters.c08_attention.questions import ASKED
from engine.evidence.card import Card
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter

STRONGEST = "the one with the largest weight"
STAGE_NAMES = {"scores": "Scores", "masked": "Masked", "weights": "Softmax"}


Finder = Callable[[View], cards.Instance | None]


def for_head(card: Callable[..., Card], find: Finder) -> Callable[[View], Callable[[], Card]]:
    """A beat that shows one card and has no controls but those of the bar, and a button for a telling head."""

    def draw(view: View) -> Callable[[], Card]:
        offer(view, find(view))
        return lambda: card(view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus)

    return draw


def offer(view: View, found: cards.Instance | None) -> None:
    """A button that chooses what shows the beat's point best here, and the reason."""
    if found is not None:
        view.offer(found.label, markdown(found.reason), found.picks)


def search(view: View, key: Hashable, find: Callable[[], cards.Instance | None]) -> cards.Instance | None:
    """What a search among the heads finds; `key` names all that it depends on beside the prompt."""
    found: cards.Instance | None = view.work("Looking for a head", key, lambda progress: find())
    return found


def looking_back(view: View) -> cards.Instance | None:
    """The head that looks most at the token before."""
    return search(view, "previous", lambda: cards.previous_token(view.trace))


def unlike(view: View) -> cards.Instance | None:
    """The head in which weight and share differ most for the focus token."""
    query = view.state.focus
    return search(view, ("unlike", query), lambda: cards.unlike(view.loaded, view.trace, query))


def loudest(view: View) -> cards.Instance | None:
    """The head of the layer that writes most at the focus token."""
    layer, query = view.state.layer, view.state.focus
    return search(
        view, ("loudest", layer, query), lambda: cards.loudest(view.loaded, view.trace, layer, query)
    )


def voter(view: View) -> cards.Instance | None:
    """The head that votes most for what the model expects after the focus token."""
    query = view.state.focus
    return search(view, ("voter", query), lambda: cards.voter(view.loaded, view.trace, query))


def in_the_middle(view: View) -> cards.Instance | None:
    """A token with as many tokens behind it as before it: the mask hides something from it."""
    tokens = view.tokens
    if len(tokens) < 3:
        return None
    middle = (len(tokens) - 1) // 2
    hidden = len(tokens) - 1 - middle
    return cards.Instance(
        {"focus": middle},
        f"Show token {middle}",
        f"From token {middle}, “{tokens[middle].display}”, the mask hides {hidden} later "
        f"token{'' if hidden == 1 else 's'}.",
    )


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
            [-1, *range(len(tokens))],
            format_func=lambda i: STRONGEST if i < 0 else f"{i}  {shorten(tokens[i].display, 24)}",
        )
    return lambda: cards.product(
        view.loaded,
        view.trace,
        view.state.layer,
        view.state.head,
        view.state.focus,
        None if key < 0 else key,
    )


def row(view: View) -> Callable[[], Card]:
    offer(view, in_the_middle(view))
    with view.controls:
        causal = view.toggle("mask", "Causal mask", True)
        scaled = not view.loaded.spec.scaled or view.toggle("scale", "Scale by 1/√d_head", True)
    return lambda: cards.row(
        view.loaded, view.trace, view.state.layer, view.state.head, view.state.focus, causal, scaled
    )


def head_map(view: View) -> Callable[[], Card]:
    offer(view, looking_back(view))
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
        else f"after the block’s {'first ' if spec.norms == 'before' else ''}{spec.norm}"
    )
    bias = ", to which this model adds a learned constant, the bias b" if cards.has_bias(view.loaded) else ""
    return f"""
        Every head makes three vectors from a token: a **query** (what am I looking for?), a **key** (what do I
        offer?) and a **value** (what do I pass on if chosen?). All three start from the same x, the residual stream
        {place}. For each, a learned matrix turns the {spec.d_model} numbers of x into {spec.d_head}; each column of
        the matrix makes one number{bias}. {shared}
    """


def vectors_prose(view: View) -> str:
    rotary = (
        "This model has RoPE (rotary position embedding, chapter 10): after the projection each query and key is "
        "rotated by an angle that grows with its position, and only then does it enter the dot product. Values are "
        "not rotated."
        if view.loaded.spec.positions == "rotary"
        else "In this model position vectors are added to the embeddings before the first block, so queries and keys "
        "are used exactly as they leave the projection."
    )
    return f"""
        The head’s three matrices are applied to every token of the prompt, so each of the three panels has one row
        for each token. The focus token, {focus(view)}, will use its **query**; from every token that it may see, it
        will need the **key** and the **value**. {rotary}
    """


def vectors_try(view: View) -> str:
    alike = (
        "are the same twice, for nothing has been mixed in yet and values are not rotated"
        if view.loaded.spec.positions == "rotary"
        else "differ only because their position vectors do"
    )
    return f"""
        Use a word twice in the prompt. In layer 0 its values {alike}; go to the last layer and compare them again.
    """


def walk_prose(view: View) -> str:
    return f"""
        This figure takes the head from the query of {focus(view)} to its write, in seven steps. Each step needs
        nothing but the strips above it, the keys and values of the tokens, and the head’s rows of W_O.
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
        How well a key answers a query is measured by their **dot product**: multiply the two dimension by dimension
        and add up. It is large when the two point the same way, and negative when they point in opposite directions.
        {scale}
    """


def row_prose(view: View) -> str:
    seen, count = view.state.focus + 1, len(view.tokens)
    sight = (
        f"{focus(view)} is the last token, so here the mask hides nothing."
        if seen == count
        else f"From position {view.state.focus} the query sees {seen} of {count} keys."
    )
    return f"""
        {focus(view)} may look only at itself and the tokens before it, and softmax turns its scores with them into
        weights. The model learns to predict the next token, so no token may see the ones after it: the **causal mask**
        replaces the scores of later keys with −∞. {sight} **Softmax** (e to the power of each score, divided by the sum
        of all of them) makes weights that are positive and add up to 1.
    """


def map_prose(view: View) -> str:
    count = len(view.tokens)
    return f"""
        The map of a head has one row for each query and one column for each key: all {count} × {count} scores come
        from one matrix product, q·kᵀ, so twice as many tokens make four times as many scores. The row of the focus
        token is framed. The mask takes away the upper triangle. Softmax works row by row, so a row adds up to 1, and a
        column need not. The first token can look only at itself.
    """


def values_prose(view: View) -> str:
    return f"""
        The weights say where {focus(view)} looks; the **values** say what it finds there. Each visible value is
        multiplied by its weight, and the sum of them is the head’s **output**. Weight and effect are not the same: a
        key with a large weight and a short value contributes little, and two values can cancel. The bars on the right
        measure how much of the sum comes from each key.
    """


def output_prose(view: View) -> str:
    spec = view.loaded.spec
    return f"""
        The **output projection** W_O turns the {spec.d_head} numbers of a head’s output into the {spec.d_model} of the
        residual stream. Every head owns {spec.d_head} of its rows, and the product with them is what
        this head **writes**: it is added to the residual stream at {focus(view)}, together with the writes of the
        {spec.n_head - 1} other heads of the layer.
    """


def promoted_prose(view: View) -> str:
    norm = view.loaded.spec.norm
    centred = "centred, divided by the scale" if view.loaded.spec.centred else "divided by the scale"
    return f"""
        Whatever is written to the residual stream also votes on the next token. Here the head’s write at {focus(view)}
        goes straight to the end: {centred} that the final {norm} measures on the **whole** residual stream of this
        token (the scale is held, not measured again on the write), times the norm’s weights, times the unembedding.
        This is only the **direct** effect on the logits: later blocks read this write too, and what they make of it
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
            "Then change the head: x stays the same, the matrix changes.",
        ),
        Beat(
            "vectors",
            "Every token gets all three",
            prose=vectors_prose,
            draw=vectors,
            try_this=vectors_try,
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
            draw=for_head(cards.values, unlike),
            try_this="Find a key whose share is clearly smaller than its weight. Its value is short, "
            "or points away from the sum; the table has its length.",
        ),
        Beat(
            "output",
            "The head writes back to the residual stream",
            prose=output_prose,
            draw=for_head(cards.output_projection, loudest),
            try_this="Compare the length of this write (below the figure) with that of all heads together. "
            "Then choose another token in the bar: does the same head write most there?",
        ),
        Beat(
            "promoted",
            "What it writes votes for some tokens and against others",
            prose=promoted_prose,
            draw=for_head(cards.promoted, voter),
            try_this="Compare a head of the first layer with one of the last. "
            "Whose promoted tokens look more like a continuation of the prompt?",
        ),
        Beat(
            "walk",
            "From one query to one write in seven steps",
            prose=walk_prose,
            draw=walk,
            try_this="Stop at step 5, choose another token in the bar, and see where that one looks.",
        ),
    ],
    asks=ASKED,
    parts=("attention",),
)
