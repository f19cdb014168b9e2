"""14 · Context and KV cache — what a model keeps of what it has read, and what it forgets."""

from collections.abc import Callable

from engine import ReaderError, tokenize
from engine.chapters import c14_context as cards
from engine.chapters.c14_context.questions import ASKED
from engine.evidence.card import Card
from engine.model import kv_cache
from engine.model.capturing import typed
from engine.ops.drafting import looked_up
from engine.tokens.encoder import decode
from engine.tokens.passages import passage
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter, words
from pages._shared.work import Progress

STORY = (
    "There was once a cat whose name was Silver. She lived in a mill by the river with an old man, and every night "
    "she caught the mice that came for the corn. One day the old man fell ill, and there was no bread in the house, "
    "nor any meal. So the cat went out into the world to seek her fortune. On the road she met a fox, who bowed and "
    "asked her what she was called. She said, My name is"
)
LOOKUP = "the text itself"
LENGTHS = (16, 64, 128, 256, 384, 512)


def equal(view: View) -> Callable[[], Card]:
    return lambda: cards.same_answers(view.loaded, view.trace)


def grows(view: View) -> Callable[[], Card]:
    count = len(view.tokens)
    with view.controls:
        read = view.slider("read", "Tokens read", 1, count, count, of=(view.chosen.prompt, count))
    return lambda: cards.growing(view.loaded, view.trace, read)


def held(view: View) -> Callable[[], Card]:
    return lambda: cards.held_bytes(view.loaded, view.trace)


def time(view: View) -> Callable[[], Card]:
    spec = view.loaded.spec
    lengths, ids = tuple(n for n in LENGTHS if n <= spec.longest), tuple(token.id for token in view.tokens)
    label, measured = "Measure on this machine", None
    with view.controls:
        press = view.again(label, long=True)
    if press:
        measured = view.work(
            label,
            press,
            lambda progress: kv_cache.latencies(view.loaded, ids, lengths, progress),
            long=True,
        )
    return lambda: cards.work_per_step(view.loaded, measured, spec.context)


def batch(view: View) -> Callable[[], Card]:
    ids = tuple(token.id for token in view.tokens)
    label, measured = "Measure a step on this machine", None
    with view.controls:
        press = view.again(label, long=True)
    if press:
        measured = view.work(
            label, press, lambda progress: cards.measure_batches(view.loaded, ids, progress), long=True
        )
    return lambda: cards.batched(view.loaded, ids, measured)


def prefix(view: View) -> Callable[[], Card]:
    ids = tuple(token.id for token in view.tokens)
    with view.controls:
        count = view.slider("requests", "Requests", 2, 4, 3)
        written = cards.usual_length(len(ids))
        length = view.slider("length", "Tokens each has written", 4, 32, written, of=written)
        usual = cards.usual_size(len(ids))
        size = view.select_slider("size", "Positions in a page", cards.SIZES, usual, of=usual)

    def do(progress: Progress) -> cards.Shared:
        for found in cards.begin(view.loaded, ids, count, length):
            progress.show(*(words_of(view, text) for text in found.texts))
        return found

    found: cards.Shared = view.work("Writing", (count, length), do)
    return lambda: cards.shared(view.loaded, found, length, size)


def speculative(view: View) -> Callable[[], Card]:
    with view.controls:
        text = view.text("text", "A text to continue", cards.ECHO, limit=1000, tall=True)
        length = view.slider("length", "Tokens to write", 8, 24, 20)
        count = view.slider("draft", "Tokens in a draft", 1, 8, 4)
        partner = cards.PARTNERS.get(view.loaded.name)
        sources = [LOOKUP, partner] if partner else [LOOKUP]
        source = view.segments("drafter", "Drafts come from", sources, of=partner) if partner else LOOKUP
    tokens = tokenize(view.loaded, text)
    drafter = None if source == LOOKUP else view.load(checkpoint=source)
    if drafter is not None:
        cards.same_tokens(view.loaded, drafter)
    ids = cards.beginning(view.loaded, [token.id for token in tokens], length)
    draft = looked_up if drafter is None else cards.by_model(drafter)

    def do(progress: Progress) -> tuple[cards.Round, ...]:
        rounds: tuple[cards.Round, ...] = ()
        for rounds in cards.speculate(view.loaded, ids, length, count, draft):
            progress.show(words_of(view, tuple(id for one in rounds for id in one.written)))
        return rounds

    rounds = view.work("Writing", (ids, length, count, source), do)
    return lambda: cards.speculative(view.loaded, ids, rounds, length, count, drafter)


def proposals(view: View) -> str:
    partner = cards.PARTNERS.get(view.loaded.name)
    second = f" {markdown(partner)}, which has the same vocabulary, can draft as well." if partner else ""
    return f"""
    A drafter proposes the next few tokens, and the model checks all of them in one pass. It keeps the draft up to the
    first token that it would not have written itself, and adds its own there: the text is the one that it writes alone,
    with fewer passes where drafts are good
    ([Leviathan et al. 2022](https://arxiv.org/abs/2211.17192), who also have a rule for tokens that are drawn at
    random). The cheapest drafter is no model:
    [prompt lookup](https://github.com/apoorvumang/prompt-lookup-decoding) proposes what followed the last tokens where
    they stood earlier in the text.{second}
    """


def words_of(view: View, ids: tuple[int, ...]) -> str:
    """Tokens that were written so far, as markdown."""
    return f"… {markdown(decode(view.loaded.tokenizer, ids))}"


def large(view: View) -> Callable[[], Card]:
    with view.controls:
        tokens = view.select_slider("tokens", "Tokens of context", [1024, 4096, 8192, 32768, 131072], 8192)
        width = view.segments("width", "Numbers kept in", ["16 bits", "8 bits"])
    return lambda: cards.large_models(view.loaded, tokens, 1 if width == "8 bits" else 2)


def forgotten(view: View) -> Callable[[], Card]:
    with view.controls:
        text = view.text("text", "A text that needs its beginning", STORY, limit=2000, tall=True, height=220)
        answer = words.field(view, "answer", "The next token you hope for", "Silver")
    if answer is None:
        raise ReaderError("Please write the word that you hope for.")
    return lambda: cards.forgotten(view.loaded, typed(view.loaded, text), answer.token)


def sinks(view: View) -> Callable[[], Card]:
    with view.controls:
        window = view.slider("window", "Window: tokens kept", 8, 128, 32, 8)
        first = view.slider("first", "First tokens kept for ever", 1, 8, 4)

    def make() -> Card:
        tokens = tokenize(view.loaded, passage())[: min(256, view.loaded.spec.longest)]
        return cards.sinks(view.loaded, tokens, window, first)

    return make


def groups(view: View) -> str:
    spec = view.loaded.spec
    if spec.n_kv_head == spec.n_head:
        here = f"{spec.n_head} query heads and as many key/value heads: multi-head attention (MHA)."
    else:
        kind = "multi-query attention (MQA)" if spec.n_kv_head == 1 else "grouped-query attention (GQA)"
        here = f"{spec.n_head} query heads that share {spec.n_kv_head} key/value heads: {kind}."
    return f"""
    The cache is the reason why large models share keys and values between heads. The loaded checkpoint,
    {markdown(view.loaded.name)}, has {here} The dots apply this chapter's formula for the bytes of a cache to published
    sizes, and show what it would weigh if every head kept its own keys and values, or if all shared one pair.
    """


def cut(view: View) -> str:
    return f"""
    {cards.about_length(view.loaded)} The cut is made at the beginning, as this beat does with the text below. The curve
    shows the probability of one next token when the model reads only the end of the text, and then more and more of
    it. When a fact from the beginning comes into view, a model that can use it becomes surer; one that cannot stays
    where it was.
    """


def layers(view: View) -> str:
    spec = view.loaded.spec
    return f"""
    A token leaves one key and one value vector of {spec.d_head} numbers in each of {spec.n_kv_head} key/value heads
    of each of {spec.n_layer} layers, and later tokens need nothing else of it. So the cache grows by the same number
    of bytes with every token, and its size is known before the model runs.
    """


chapter(
    number=14,
    title="Context and KV cache",
    question="What does a model keep of what it has read?",
    lead="Keys and values of old tokens never change, because no token can look ahead. A model that writes keeps them "
    "and computes only the new token. What is kept costs memory; what is dropped can no longer be attended to.",
    bar=(),
    beats=[
        Beat(
            "equal",
            "Keeping keys and values changes no answer",
            prose="""
            Under a causal mask a token attends only to itself and to earlier ones, so a later token cannot change what
            an earlier one computed. The line reads the whole prompt in one pass; the rings read it token by token and
            keep each layer's keys and values. The surprisal of every token is the same, except for rounding: the two
            add floating-point numbers in different orders.
            """,
            draw=equal,
            try_this="Switch the precision in the sidebar to bf16: the difference in the title grows, because sums are "
            "rounded more coarsely.",
        ),
        Beat(
            "grows",
            "Each token adds a column to the cache, and no old column changes",
            prose="""
            The *KV cache* holds the keys and values of all tokens read so far, in every layer. Reading one more token
            computes one new column: its keys and values, which its own attention and that of all later tokens will
            use. The columns before it are only read.
            """,
            draw=grows,
            try_this="Move the slider from 1 upwards. Which columns change when a token is added?",
        ),
        Beat(
            "bytes",
            "The cache grows by the same bytes with every token",
            prose=layers,
            draw=held,
            try_this="Switch between pocket-gpt2 and pocket-llama: the same depth and width, another number of "
            "key/value heads.",
        ),
        Beat(
            "time",
            "Reading once is prefill; each new token is one decode step",
            prose="""
            *Prefill* reads the whole prompt in one pass and fills the cache. A *decode step* then reads one token.
            Without the cache, every step would read the whole text again to get keys and values that were computed
            before. The button measures one decode step after contexts of several lengths; the median of the repeats is
            drawn, the quartiles are in the table.
            """,
            draw=time,
            try_this="Measure twice. What moves between the two runs is the machine, not the model.",
        ),
        Beat(
            "batch",
            "Texts that are decoded together share the reading of the weights",
            prose="""
            One decode step reads the weights of every layer once, however many texts it continues. Texts that are
            decoded together are the rows of a *batch*: they share that reading, and each row still reads its own keys
            and values. A server need not wait until all rows are written. In *continuous batching* a new request takes
            a row between two steps, as soon as another has ended
            ([Yu et al. 2022](https://www.usenix.org/conference/osdi22/presentation/yu) call it iteration-level
            scheduling). The button measures one step with 1 to 16 rows.
            """,
            draw=batch,
            try_this="Measure, then look at the line of the step's time: where it is flat, another row costs no time.",
        ),
        Beat(
            "prefix",
            "Requests that begin alike share their first keys and values",
            prose="""
            Two texts that begin with the same tokens have the same keys and values there, because no token sees a later
            one. A server that keeps the cache in *pages* of a fixed number of positions stores a page of such tokens
            once and lets every request point to it ([Kwon et al. 2023](https://arxiv.org/abs/2309.06180)). Here the
            prompt is what the requests have in common; each goes on with another of the most probable next tokens, and
            then greedily. Only pages that the prompt fills are shared, and on a request's last page places may stay
            empty.
            """,
            draw=prefix,
            try_this="Make the pages larger. When is nothing shared any more, and how many places are empty then?",
        ),
        Beat(
            "speculative",
            "One pass can check several drafted tokens",
            prose=proposals,
            draw=speculative,
            try_this="Write a text in which nothing comes twice. How many passes does the model need now?",
        ),
        Beat(
            "large",
            "At scale, the cache decides how many conversations fit on one machine",
            prose=groups,
            draw=large,
            try_this="Set the context to 131,072 tokens and compare multi-head with what was published. Then halve it "
            "with 8-bit numbers.",
        ),
        Beat(
            "forgotten",
            "What has left the window does not exist for the model",
            prose=cut,
            draw=forgotten,
            try_this="Replace the cat's name by another word, in the text and in the field below it.",
        ),
        Beat(
            "sinks",
            "A sliding window forgets, and the first tokens may be worth keeping",
            prose="""
            A sliding window keeps the last tokens of the cache and evicts the rest. Many models give the first
            tokens a large share of attention whatever they say: an attention sink
            ([Xiao et al. 2023](https://arxiv.org/abs/2309.17453)). Keeping a few of them beside the window is cheap;
            the three averages in the figure's title tell whether it helps this checkpoint on this text. What was
            evicted is not quite gone: tokens that are still kept have read it.
            """,
            draw=sinks,
            try_this="Make the window small, then keep one first token, then eight.",
        ),
    ],
    asks=ASKED,
    parts=("attention",),
)
