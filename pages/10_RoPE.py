"""10 · RoPE — how queries and keys learn where they stand."""

from collections.abc import Callable

from engine.chapters import c10_rope as cards
from engine.chapters.c10_rope.questions import ASKED
from engine.evidence.card import Card
from engine.model.loaded import Loaded
from engine.tokens.passages import sample
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter

STAND_IN = {"rotary": "pocket-llama", "learned": "pocket-gpt2"}
POSITIONS_OFFERED = 128
NAMES = {"query": "Query", "key": "Key"}
VIEWS = {"wavelengths": "Wavelengths", "cosines": "Cosines"}


def subject(view: View, positions: str = "rotary") -> Loaded:
    """The loaded checkpoint if it marks positions in this way, else the bundled one that does."""
    return view.loaded if view.loaded.spec.positions == positions else view.load(STAND_IN[positions])


def stand_in(view: View, positions: str = "rotary") -> str:
    """One paragraph when the figure is not from the loaded checkpoint."""
    if view.loaded.spec.positions == positions:
        return ""
    name, other = markdown(view.loaded.name), STAND_IN[positions]
    if positions == "rotary":
        return (
            f"*{name} has no RoPE: its positions are learned vectors. So the figures of this chapter are computed from "
            f"{other}, the bundled checkpoint with RoPE, on the same prompt; the one about learned positions is from "
            f"{name}.*"
        )
    return (
        f"*{name} has no learned positions. This figure is computed from {other}, the bundled checkpoint that has "
        "them, on the same prompt.*"
    )


def pick_layer(view: View, loaded: Loaded) -> int:
    """The layer of the bar, or of a slider for a checkpoint that has another number of them."""
    count = loaded.spec.n_layer
    if count == view.loaded.spec.n_layer:
        return view.state.layer
    return view.slider("layer", "Layer", 0, count - 1, 0, of=count)


def pick_head(view: View, loaded: Loaded) -> int:
    """The head of the bar, or of a slider for a checkpoint that has another number of them."""
    count = loaded.spec.n_head
    if count == view.loaded.spec.n_head:
        return view.state.head
    return view.slider("head", "Head", 0, count - 1, 0, of=count)


def pick_token(view: View, loaded: Loaded, name: str, label: str) -> int:
    """The focus token, or another where the checkpoint's tokenizer cuts the prompt into other tokens."""
    same = loaded is view.loaded or view.tokens_of(loaded) == view.tokens
    return view.state.focus if same else pick_own_token(view, loaded, name, label)


def pick_own_token(view: View, loaded: Loaded, name: str, label: str, usual: int | None = None) -> int:
    """A token of the prompt as this checkpoint cuts it; at first the last one, unless `usual` is another."""
    tokens = view.tokens_of(loaded)
    last = len(tokens) - 1
    return view.select(
        name,
        label,
        range(len(tokens)),
        last if usual is None else min(usual, last),
        format_func=lambda i: f"{i}  {shorten(tokens[i].display, 24)}",
        of=(view.chosen.prompt, usual),
    )


def pick_part(view: View) -> str:
    return view.segments("part", "Vector", list(NAMES), "query", NAMES.__getitem__)


def pick_pair(view: View, loaded: Loaded) -> int:
    last = cards.rotation(loaded).pairs - 1
    return view.slider("pair", "Pair", 0, last, min(3, last), of=last)


SHIFTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


def pick_shift(view: View, loaded: Loaded, query: int) -> int:
    room = max(0, cards.room(loaded, query))
    offered = sorted({*(shift for shift in SHIFTS if shift < room), room})
    return view.select_slider(
        "shift", "Positions added to both", offered, 100 if 100 in offered else room, of=room
    )


def pick_theta(view: View, loaded: Loaded) -> float:
    own, offered = cards.rotation(loaded).theta, cards.thetas(loaded)
    start = next((theta for theta in offered if theta > 10 * own), offered[-1])
    return view.select_slider("theta", "θ", offered, start, of=own, format_func=lambda theta: f"{theta:,.0f}")


def traced(view: View, card: Callable[..., Card], positions: str, *choices: object) -> Callable[[], Card]:
    """A card of the checkpoint that marks positions in this way, and of its pass over the prompt."""

    def make() -> Card:
        loaded = subject(view, positions)
        return card(loaded, view.capture(loaded=loaded), *choices)

    return make


def pair(view: View) -> Callable[[], Card]:
    loaded = subject(view)
    with view.controls:
        token = pick_token(view, loaded, "token", "Token")
        highest = min(loaded.spec.context, POSITIONS_OFFERED) - 1
        position = view.slider(
            "position", "As if it stood at position", 0, highest, token, of=(token, highest)
        )
        index = pick_pair(view, loaded)
        part = pick_part(view)
        layer, head = pick_layer(view, loaded), pick_head(view, loaded)
    return traced(view, cards.pair, "rotary", layer, head, token, part, index, position)


def ladder(view: View) -> Callable[[], Card]:
    with view.controls:
        shown = view.segments("show", "Show", list(VIEWS), "wavelengths", VIEWS.__getitem__)
    return lambda: cards.ladder(subject(view), shown)


def turned(view: View) -> Callable[[], Card]:
    loaded = subject(view)
    with view.controls:
        token = pick_token(view, loaded, "token", "Token")
        part = pick_part(view)
        layer, head = pick_layer(view, loaded), pick_head(view, loaded)
    return traced(view, cards.turned, "rotary", layer, head, token, part)


def distance(view: View) -> Callable[[], list[Card]]:
    loaded = subject(view)
    with view.controls:
        strongest = view.toggle("strongest", "The head that looks most at the token before", True)
        place = None if strongest else (pick_layer(view, loaded), pick_head(view, loaded))
        query = pick_token(view, loaded, "query", "Query token")
        key = pick_own_token(view, loaded, "key", "Key token", max(0, query - 1))
        largest = view.toggle("largest", "The pair whose wave changes most here", True)
        index = None if largest else pick_pair(view, loaded)
        near, far = cards.NEAR, min(loaded.spec.context, cards.LONGEST)
        reach = view.segments(
            "reach", "Distances", [near, far], format_func=lambda count: f"0 to {count - 1:,}", of=far
        )
        furthest = min(near, far) - 1
        away = view.slider("away", "Bars at distance", 0, furthest, min(1, furthest), of=furthest)

    def make() -> list[Card]:
        model = subject(view)
        trace = view.capture(loaded=model)
        if place is None:
            waves = cards.looking_back(model, trace, query, key, index, reach)
        else:
            waves = cards.distance(model, trace, *place, query, key, index, reach)
        layer, head = place or cards.previous_head(trace)[:2]
        return [waves, cards.by_pair(model, trace, layer, head, query, key, away)]

    return make


def shift(view: View) -> Callable[[], Card]:
    loaded = subject(view)
    with view.controls:
        query = pick_token(view, loaded, "query", "Query token")
        by = pick_shift(view, loaded, query)
        layer, head = pick_layer(view, loaded), pick_head(view, loaded)
    return traced(view, cards.rotated, "rotary", layer, head, query, by)


def learned(view: View) -> Callable[[], Card]:
    loaded = subject(view, "learned")
    with view.controls:
        query = pick_token(view, loaded, "query", "Query token")
        by = pick_shift(view, loaded, query)
        head = pick_head(view, loaded)
    return traced(view, cards.learned, "learned", head, query, by)


def theta(view: View) -> Callable[[], Card]:
    with view.controls:
        chosen = pick_theta(view, subject(view))
    return lambda: cards.theta_ladder(subject(view), chosen)


def decay(view: View) -> Callable[[], Card]:
    loaded = subject(view)
    with view.controls:
        chosen = pick_theta(view, loaded)
        reach = view.segments(
            "reach",
            "Up to",
            cards.REACHES,
            1,
            lambda times: "the context" if times == 1 else f"{times}×",
        )
        query = pick_token(view, loaded, "query", "Query token")
        layer, head = pick_layer(view, loaded), pick_head(view, loaded)
    return traced(view, cards.theta_decay, "rotary", layer, head, query, chosen, reach)


def long_reader(view: View) -> Loaded:
    """The loaded checkpoint if it can be read beyond its context here, else the bundled one with RoPE."""
    return view.loaded if cards.readable(view.loaded) else view.load(STAND_IN["rotary"])


def beyond(view: View) -> Callable[[], Card]:
    return lambda: cards.beyond(long_reader(view), sample())


def pair_prose(view: View) -> str:
    return f"""
        A dot product does not know where its two tokens stand; only the causal mask gives away a little of it
        ([Haviv et al. 2022](https://arxiv.org/abs/2203.16634)). **Rotary position embedding** (RoPE;
        [Su et al. 2021](https://arxiv.org/abs/2104.09864)) tells it by rotating both vectors. Two numbers of a query
        are a point in a plane; at position *p* it is rotated by *p* × *frequency*, and every pair of numbers has a
        frequency of its own. Keys are rotated in the same way; values are not, and nothing is added to the embeddings.

        {stand_in(view)}
    """


def ladder_prose(view: View) -> str:
    return """
        Pair 0 rotates fastest, and each further pair more slowly. A fast pair tells neighbours apart but repeats
        itself soon; a pair that needs more tokens for one turn than the context is long never repeats inside it.
        Together they can be read like the hands of a clock: seconds, minutes, hours.
    """


def turned_prose(view: View) -> str:
    return f"""
        Each dial shows one pair of a captured vector: as it left the projection, and as it entered the dot product. On
        each dial both hands have the same length, because a rotation changes a direction and not a length. The first
        pairs go round within a few tokens; the last ones hardly move within a short prompt. {stretched(view)}
    """


def stretched(view: View) -> str:
    """What YaRN does besides rotating; nothing for all others."""
    if view.loaded.spec.positions != "rotary" or cards.rotation(view.loaded).factor == 1:
        return ""
    factor = cards.rotation(view.loaded).factor
    return f"(This checkpoint’s YaRN also multiplies every length by {factor:.4g}.)"


def distance_prose(view: View) -> str:
    return """
        Rotate the query by *m* × *frequency* and the key by *n* × *frequency*, and the angle between them changes by
        (*m* − *n*) × *frequency*. So each pair adds a cosine wave of the **distance** to the score, and the score is
        the sum of them. The contents of the two tokens set each wave's height and phase; the distance does the rest.
        No law says that the sum falls with the distance: which distances a head prefers is learned. A head that looks
        at the token before has learned waves that agree best at distance 1.

        The bars show the parts that make up the score at one distance. A pair adds most when its two vectors point the
        same way, and takes most away when they point opposite ways; the lengths of the two set the limit.
    """


def shift_prose(view: View) -> str:
    return """
        If only the distance counts, then a query and its keys can move through the context **together** and no score
        may change. Here the positions of all tokens up to the query token are raised by the same number, and the
        captured queries and keys are rotated again. The lines are the keys that this query attends to most.
    """


def learned_prose(view: View) -> str:
    return f"""
        GPT-2 adds a learned vector to the embedding, one for each position, from a table. Move the tokens and other
        rows are added: query and key become other vectors, and their dot product changes. Nothing in this
        arithmetic gives two tokens at the same distance the same score; training has to bring that about, row by row.

        {stand_in(view, "learned")}
    """


def theta_prose(view: View) -> str:
    return """
        One number, θ, sets all frequencies: pair *i* of *n* turns by θ^(−*i*/*n*) radians for each token, before any
        scaling that a config may add. RoFormer took θ = 10,000. A larger θ slows the high pairs down, so that more of
        them complete less than one turn in a longer context; Llama 3 uses 500,000 (arXiv:2407.21783, table 3).
    """


def decay_prose(view: View) -> str:
    return """
        When a query meets a key with **exactly its own numbers**, all pairs point the same way at distance 0, and the
        score is as large as it can be. Further away the pairs fall out of step, the fast ones first, and their waves
        partly cancel. Only θ differs between the two curves. The weights were trained with the checkpoint’s own θ, so
        this is geometry, not a measure of how well the model would read with another.
    """


def beyond_prose(view: View) -> str:
    other = (
        f"*A text of two contexts of {markdown(view.loaded.name)} cannot be read here; the figure is computed from "
        f"{STAND_IN['rotary']}.*"
    )
    return f"""
        Beyond its context a model meets distances that it was never trained on. Rotations can be slowed down after
        training, so that they stay within the known range: **position interpolation** divides all positions
        ([Chen et al. 2023](https://arxiv.org/abs/2306.15595)), which also blurs neighbours; a **larger θ** slows the
        slow pairs as much and leaves the fast ones nearly as they were
        ([Peng et al. 2024](https://arxiv.org/abs/2309.00071), section 3.1). Here a text of twice the context is read
        in each way, and once as two texts. No weight is trained further, which in practice comes next.

        {"" if cards.readable(view.loaded) else other}
    """


chapter(
    number=10,
    title="RoPE",
    question="How does a model know how far apart two tokens are?",
    lead=(
        "Attention compares vectors, and a vector by itself says nothing about its place. Rotary position embedding "
        "rotates queries and keys by an angle that grows with the position. This chapter rotates them one pair of "
        "numbers at a time, exactly as the checkpoint does."
    ),
    beats=[
        Beat(
            "pair",
            "A position is an angle",
            prose=pair_prose,
            draw=pair,
            try_this="Move the position one by one (the arrow keys do it): the same step each time. Then "
            "choose a higher pair and watch the step shrink.",
        ),
        Beat(
            "ladder",
            "Every pair has its own frequency",
            prose=ladder_prose,
            draw=ladder,
            try_this="Switch to the cosines, and compare any two columns: no two positions have the same.",
        ),
        Beat(
            "turned",
            "Rotation changes directions, never lengths",
            prose=turned_prose,
            draw=turned,
            try_this="Choose position 0, then the last token of the prompt. Open the table and compare the lengths.",
        ),
        Beat(
            "distance",
            "A score depends on the distance, and on nothing else about the positions",
            prose=distance_prose,
            draw=distance,
            try_this="Choose other keys: does the score still peak at distance 1? Then take pair 0 and the last pair, "
            "which goes through only a small part of its wave here, or another head, chosen in the bar.",
        ),
        Beat(
            "shift",
            "With RoPE, moving both changes nothing",
            prose=shift_prose,
            draw=shift,
            try_this="Look for a layer and a head where a line bends. There is none: prove it with a whole pass of the "
            "model at the shifted positions.",
        ),
        Beat(
            "learned",
            "With learned positions, moving both changes the score",
            prose=learned_prose,
            draw=learned,
            try_this="Go through the heads and compare how far their lines stray. Then choose another query token in "
            "the bar: do the scores of neighbours stray less?",
        ),
        Beat(
            "theta",
            "A larger θ slows the pairs down",
            prose=theta_prose,
            draw=theta,
            try_this="Set the smallest θ: how many pairs now repeat within the context?",
        ),
        Beat(
            "decay",
            "Slower pairs stay in step for longer",
            prose=decay_prose,
            draw=decay,
            try_this="Look 8 contexts far, and move θ from the smallest to the largest.",
        ),
        Beat(
            "beyond",
            "Beyond its context a model reads worse, unless its rotations slow down",
            prose=beyond_prose,
            draw=beyond,
            try_this="Compare the lines left of the dotted one: what does slowing down cost where it is not needed?",
        ),
    ],
    asks=ASKED,
    parts=("attention",),
)
