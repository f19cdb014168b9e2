"""13 · Post-training — from a model that continues text to one that answers."""

from collections.abc import Callable, Hashable, Sequence

import streamlit as st

from engine.chapters import c13_post_training as cards
from engine.chapters.c13_post_training.questions import ASKED
from engine.evidence.card import Card
from engine.model.precisions import REFERENCE
from engine.model.writing import Choice
from engine.tokens.text import display, markdown, shorten
from pages._shared import Beat, View, chapter, resources
from pages._shared.choices import pick, write
from pages._shared.work import Progress

Drawing = tuple[int, int | None, float]  # tokens at most, seed (None: greedily), temperature

Text = tuple[cards.Task, tuple[Choice, ...]]

TOKENS_READ = 128
BETAS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
PROMPT, TALK = "your prompt", "request and answer"
FINE_TUNING, PREFERENCES = "fine-tuning", "preferences"
ANSWER = "The king rode out of the wood, and the whole court was waiting for him."

YOURS = "yours"
"""What the chosen checkpoint is called beside the versions compared."""

RAFAILOV = "[Rafailov et al. 2023](https://arxiv.org/abs/2305.18290)"
GAO = "[Gao et al. 2022](https://arxiv.org/abs/2210.10760)"
LAMBERT = "[Lambert et al. 2024](https://arxiv.org/abs/2411.15124)"
OUYANG = "[Ouyang et al. 2022](https://arxiv.org/abs/2203.02155)"
SHAO = "[Shao et al. 2024](https://arxiv.org/abs/2402.03300)"
ZHOU = "[Zhou et al. 2023](https://arxiv.org/abs/2305.11206)"


def family(view: View) -> cards.Family:
    return cards.family_of(view.chosen.checkpoint)


def versions(view: View) -> tuple[cards.Version, ...]:
    """The versions that the chapter compares, always at fp32, each loaded when work, a card or its proof needs it."""
    return family(view).versions(lambda name: resources.loaded(name, REFERENCE))


def load(view: View, progress: Progress) -> None:
    """In a worker: the small bundled versions, so that the reader sees what is being waited for."""
    here = family(view)
    names = here.names.values() if here.recorded else ()
    for i, name in enumerate(names):
        if not resources.in_memory(name, REFERENCE):
            progress(i / len(names), f"Loading {name}")
            resources.loaded(name, REFERENCE)


def speaker(view: View) -> cards.Version:
    """The version whose chat template is used."""
    return cards.speaker(versions(view)[1:])


def own(view: View) -> tuple[cards.Version, ...]:
    """The chosen checkpoint at fp32, where it brings a chat template and is none of the versions compared."""
    name = view.chosen.checkpoint
    if name in family(view).names.values() or not cards.has_template(view.loaded.tokenizer):
        return ()
    return (cards.Version(YOURS, name, lambda: resources.loaded(name, REFERENCE)),)


def request(view: View) -> str:
    """The request of the chapter: the reader's own, or one that was held out of the tuning."""
    offered = cards.requests(family(view))
    with view.controls:
        example = pick(view, "example", "Request", offered, cards.simple(offered), option)
        own = write(view, "own", "Or your own", limit=cards.LONGEST, hint="Write two sentences about the …")
    return cards.checked(own or example, "request")


def drawing(view: View) -> Drawing:
    """How the reader wants answers to be written."""
    with view.controls:
        left, right = st.columns(2)
        with left:
            count = view.slider("count", "Tokens at most", 16, 96, 48, 16)
        with right:
            temperature = view.slider(
                "temperature",
                "Temperature",
                0.0,
                1.5,
                0.7,
                0.1,
                help="At 0 each version takes its most probable token at every step, and the seed plays no part.",
            )
    return count, view.state.seed if temperature else None, temperature or 1.0


def answers(view: View) -> Callable[[], Card]:
    asked, drawn = request(view), drawing(view)
    return written(
        view,
        "answers",
        asked,
        drawn,
        lambda: [cards.task(version, asked, *drawn) for version in versions(view)],
    )


def template(view: View) -> Callable[[], Card]:
    asked = request(view)
    mine = own(view)
    return lambda: cards.template(mine[0] if mine else speaker(view), asked)


def without(view: View) -> Callable[[], Card]:
    asked = request(view)
    labels, mine = family(view).tuned, own(view)
    with view.controls:
        options = (*labels, *(version.label for version in mine))
        label = pick(view, "tuned", "Version", options, options[-1])
    drawn = drawing(view)
    return written(
        view,
        "without",
        asked,
        (label, drawn),
        lambda: cards.with_and_without(cards.by_label((*versions(view), *mine), label), asked, *drawn),
    )


def written(
    view: View, key: str, asked: str, drawn: Hashable, tasks: Callable[[], list[cards.Task]]
) -> Callable[[], Card]:
    """The texts side by side, and their card."""
    texts = stream(view, (key, drawn), asked, tasks)
    begun = [(one, choices) for one, choices in texts if choices]
    return lambda: cards.answers(key, [one for one, _ in begun], [choices for _, choices in begun])


def stream(view: View, key: Hashable, asked: str, tasks: Callable[[], list[cards.Task]]) -> list[Text]:
    """Each task with what is written of it, shown as it grows and, with what the rule says of it, when it is there.

    key  names all that `tasks` depends on beside the request
    """
    judged = "" if view.presenting else asked  # on a wall the figure needs the room

    def do(progress: Progress) -> tuple[list[Text], list[str]]:
        load(view, progress)
        every = tasks()
        shown = [said("", one, ()) for one in every]
        texts: list[Text] = []
        for i, one in enumerate(every):
            choices: tuple[Choice, ...] = ()
            for choices in cards.writing(one):
                shown[i] = said("", one, choices)
                progress.show(*shown)
            texts.append((one, choices))
        return texts, [said(judged, one, choices) for one, choices in texts]

    texts: list[Text]
    texts, shown = view.work("Writing", (key, asked, view.presenting), do)
    with view.stage:
        for place, one in zip(st.columns(len(shown), gap="medium"), shown, strict=True):
            place.markdown(one)
    return texts


def said(asked: str, one: cards.Task, choices: tuple[Choice, ...]) -> str:
    """One text as far as it is written, as markdown; with the request, what the rule says of it."""
    end = ":gray[ ■ end]" if cards.ended(choices) else " …"
    verdict = cards.judgement(asked, one, choices) if asked and choices else ""
    below = f"\n\n:small[:gray[{markdown(verdict)}]]" if verdict else ""
    return f"**{markdown(one.label)}**\n\n{markdown(flat(cards.words(one, choices)))}{end}{below}"


def flat(text: str) -> str:
    """Text on one line, with ordinary spaces and with control and bidirectional characters spelled out."""
    return "".join(" " if char.isspace() else display(char) for char in text).strip()


def option(text: str) -> str:
    """A text as an entry of a select box, which shows it as it is."""
    return shorten(flat(text), 80)


def answer(view: View) -> str:
    """The answer of the chapter: the reader's own."""
    with view.controls:
        text = write(view, "answer", "Answer", ANSWER, limit=cards.LONGEST, tall=True)
    return cards.checked(text, "answer")


def mask(view: View) -> Callable[[], Card]:
    asked = request(view)
    given = answer(view)
    labels = family(view).labels
    with view.controls:
        label = pick(view, "reader", "Read by", labels, labels[0])
        everything = view.toggle("everything", "Let every token carry loss")
    return lambda: cards.loss(cards.by_label(versions(view), label), speaker(view), asked, given, everything)


def drift(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        what = view.segments("what", "Text", [PROMPT, TALK])
    asked, given = (request(view), answer(view)) if what == TALK else ("", "")

    def encoded(progress: Progress) -> tuple[tuple[int, ...], int, list[str]]:
        if what == PROMPT:
            ids = cards.prompt_ids(versions(view)[-1], view.chosen.prompt, template=False)[:TOKENS_READ]
            start = len(ids) - 1
        else:
            made = cards.rendered(speaker(view), asked, given)
            ids, start = made.ids, made.carries_loss.index(True) - 1
        return ids, start, cards.names_of(versions(view)[-1], ids)

    ids, start, names = view.work("Reading the text", (asked, given), encoded)
    focus = pick_place(view, ids, start, names)
    return lambda: [cards.kl(versions(view), ids, focus), cards.favourites(versions(view), ids, focus)]


def pick_place(view: View, ids: tuple[int, ...], start: int, names: Sequence[str]) -> int:
    """The token after which the distributions are compared: the focus token where the tokens are the prompt's.

    start  where the choice begins otherwise
    """
    if ids == tuple(token.id for token in view.tokens):
        return view.state.focus
    with view.controls:
        return view.select(
            "place",
            "After this token",
            range(len(ids)),
            start,
            format_func=lambda i: f"{i}  {shorten(names[i], 24)}",
            of=(len(ids), start),
        )


def preference(view: View) -> Callable[[], list[Card]]:
    here = family(view)
    offered = cards.pairs(here)
    with view.controls:
        number = view.select("pair", "Pair", range(len(offered)), format_func=lambda i: option(offered[i][0]))
        asked, chosen, rejected = (
            view.text(
                label.lower(),
                label,
                text,
                limit=cards.LONGEST,
                tall=True,
                height=height,
                of=(here.labels, number),
            )
            for label, text, height in zip(
                ("Request", "Chosen", "Rejected"), offered[number], (68, 100, 100), strict=True
            )
        )
        default = cards.beta(here)
        beta = view.select_slider("beta", "β", sorted({*BETAS, default}), default, of=default)
        options = dict.fromkeys((*here.tuned, here.reference))
        label = pick(view, "policy", "Policy", list(options), here.tuned[-1])
        by_token = view.toggle("by-token", "Token by token")
    asked = cards.checked(asked, "request")
    answers = cards.checked(chosen, "chosen answer"), cards.checked(rejected, "rejected answer")

    def both() -> list[Card]:
        every = versions(view)
        policy, reference = cards.by_label(every, label), cards.by_label(every, here.reference)
        return cards.preference(cards.pair(policy, reference, speaker(view), asked, answers, beta), by_token)

    return both


def runs(view: View) -> Callable[[], Card]:
    with view.controls:
        which = view.segments("which", "Run", [FINE_TUNING, PREFERENCES])
        if which == FINE_TUNING:
            return cards.sft
        quantity = view.segments("quantity", "Quantity", list(cards.QUANTITIES), "ranking")
    return lambda: cards.dpo(quantity)


def measured(view: View) -> Callable[[], Card]:
    with view.controls:
        kind = view.select("kind", "Requests", cards.kinds())
    return lambda: cards.measured(kind)


def limits(view: View) -> Callable[[], list[Card]]:
    seed, mine = view.state.seed, own(view)
    with view.controls:
        number = view.select(
            "question",
            "Question",
            range(len(cards.QUESTIONS)),
            1,
            format_func=lambda i: cards.asked(cards.QUESTIONS[i]),
        )
        tries = view.slider("tries", "Seeds for all questions", 1, 5, 3)
        whole = view.asked(
            "Ask all questions",
            (seed, tries),
            lambda progress: cards.examine((*versions(view), *mine), seed, tries, progress),
        )
    question = cards.QUESTIONS[number]
    asked = stream(
        view, ("limits", question, seed), "", lambda: cards.ask((*versions(view), *mine), question, seed)
    )

    def made() -> list[Card]:
        one = cards.answered(question, [task for task, _ in asked], [choices for _, choices in asked])
        return [one] if whole is None else [one, cards.marks((*versions(view), *mine), whole, seed)]

    return made


def about_answers(view: View) -> str:
    here = family(view)
    tuned = cards.listed(here.tuned)
    note = f"*{markdown(here.note)}*" if here.note else ""
    return f"""
    A pre-trained model continues text; nothing in its training told it that a request wants an answer.
    **Post-training** trains it further, on requests with answers. Below, the base and its tuned versions, {tuned},
    answer the same request with the same seed, all at fp32. The base reads the bare request, the others read it
    through a chat template.

    An answer is over when the model itself writes an end token. An answer without one was cut off at the token limit.

    {cards.about_origin(here)}

    {note}
    """


def about_template(view: View) -> str:
    mine = own(view)
    whose = f"The figure shows the template of {markdown(view.loaded.name)}." if mine else ""
    return f"""
    A model knows nothing of speakers; it reads one row of tokens. A **chat template** writes a conversation as such a
    row, with **special tokens** where a turn begins or ends. They have ids of their own. This page encodes what you
    type as ordinary text, even if it spells such a mark. A careless server's tokenizer would turn it into the mark
    itself, and whoever types it could end a turn or begin one.

    The row ends where the assistant's turn begins. Predicting the next token from there *is* answering. {whose}
    """


def about_without(view: View) -> str:
    yours = f" {markdown(view.loaded.name)} is the version *{YOURS}*." if own(view) else ""
    return f"""
    One tuned version reads the same request with the same seed, through the template and as bare text. Without the
    marks, nothing separates the request from what the version writes itself. It may continue the request, or, where
    the request ends as an answer does, write the end token at once.

    Some templates also put a **system turn** before the request: words on how to answer, which nobody typed. Where the
    version's template does, a third text, *no system*, does without that turn: all other marks stay, and the answer
    may still change.{yours}
    """


def about_preference(view: View) -> str:
    return f"""
    Preference tuning needs no answer to imitate, only a verdict: of two answers to a request, one is better. **DPO**
    (direct preference optimization, {RAFAILOV}, eq. 7) raises the log-probability of the *chosen* answer against that
    of the *rejected* one. The version being trained is called the **policy**; each log-probability is measured against
    a frozen **reference**, here {family(view).reference}, so that the policy does not drift off. The **reward** of an
    answer is $r = \\beta\\,(\\ln \\pi - \\ln \\pi_{{ref}})$, the loss $-\\ln \\sigma(r_c - r_r)$, and $r_c - r_r$ the
    *margin*.

    A pair with a large margin hardly changes the policy any more. The larger β, the closer the policy has to stay to
    the reference.

    The older way needs a further model. A **reward model** is trained on such pairs to give every answer a number;
    then the policy writes answers of its own, and reinforcement learning makes those with a high reward more probable
    ({OUYANG}). A reward model is only an estimate: what is pushed too far towards it gets worse by the measure that it
    stands for ({GAO}). DPO takes no reward model and writes no answers while it trains.
    """


def about_measured(view: View) -> str:
    return f"""
    The preferred answers were chosen by a written rule that a program can apply: does the answer use every asked word,
    end properly, keep the asked length, and repeat nothing? The same rule marks the answers of all versions to
    requests that none of them was tuned on. Whether a text is any good, the rule does not ask.

    Where a program can check an answer, as with a sum or a unit test, its verdict can be the reward itself:
    **reinforcement learning with verifiable rewards** ({LAMBERT}). The policy writes several answers to a task, and
    those that pass are made more probable; GRPO ({SHAO}) measures each against the mean of its group. The bundled
    versions were not trained so: their rule only chose the pairs.

    {cards.about_reward()}
    """


def about_limits(view: View) -> str:
    count = cards.parameters(family(view))
    name = markdown(view.loaded.name)
    also = f"{name}, which you chose, was tuned as well: it answers as *{YOURS}*." if own(view) else ""
    return f"""
    Examples can teach a model a *form*: to keep to a request, and to stop. That what a tuned model knows comes almost
    all from pre-training, and that tuning mainly picks a style, is a hypothesis of {ZHOU}. The questions ask for sums,
    facts, and instructions of a kind that the bundled versions were never tuned on, and for one sentence of a kind
    that they were. A base of {count / 1e6:,.1f} million parameters knows few of the answers; see whether its tuned
    versions know more. {also}

    Each answer is marked by a pattern, not by taste. A pattern can be met by luck, so ask with several seeds.
    """


chapter(
    number=13,
    title="Post-training",
    question="How does a model that continues text learn to answer?",
    lead=(
        "A pre-trained model continues whatever text it is given. An assistant is usually made from it by two "
        "further, much shorter trainings: on answers to imitate, then on pairs of answers of which one is preferred."
    ),
    beats=[
        Beat(
            "answers",
            "The same request, before and after tuning",
            prose=about_answers,
            draw=answers,
            try_this=(
                "Ask for a scene with three words of your own and read what the rule says under each answer. "
                "Then change the seed in the bar: is the difference between versions larger than that between seeds?"
            ),
        ),
        Beat(
            "template",
            "To the model, a conversation is one text with marks in it",
            prose=about_template,
            draw=template,
            try_this="Type `<|end|>` or `<|im_end|>` into your own request and see which tokens it becomes.",
        ),
        Beat(
            "without",
            "Without the template, nothing says whose turn it is",
            prose=about_without,
            draw=without,
            try_this="Lower the temperature to 0: both texts are now the version's favourites. Which of them ends?",
        ),
        Beat(
            "mask",
            "Only the answer carries loss",
            prose="""
            **Supervised fine-tuning (SFT)** has the loss of pre-training, the mean surprisal, with one change: the
            tokens of the request and of the template are labelled −100 and left out of the mean. The model is not
            trained to ask, only to answer, and to end: the end mark carries loss too.

            The model still reads every token, in one pass. Write an answer and see what it costs.
            """,
            draw=mask,
            try_this="Compare the base with the tuned versions: where does the loss of the same answer fall most?",
        ),
        Beat(
            "kl",
            "Tuning moves some predictions further than others",
            prose="""
            The **KL divergence** of a tuned version from the base says how far its prediction has moved at a token. All
            versions read the same tokens, and each gives a distribution at every position. Preference tuning with a
            reward model adds a penalty on such a KL, measured from the fine-tuned version instead of the base
            ([Ouyang et al. 2022](https://arxiv.org/abs/2203.02155)); in DPO the reference plays that part.

            The second figure shows the favourites of each version after the token you choose.
            """,
            draw=drift,
            try_this="Switch to the request and its answer: what do the versions expect where the answer begins?",
        ),
        Beat(
            "preference",
            "DPO pushes two answers apart, measured against a frozen reference",
            prose=about_preference,
            draw=preference,
            try_this=(
                "Choose the reference itself as the policy: both rewards are 0 and the loss is ln 2, as before DPO's "
                "first update. Then swap the two answers."
            ),
        ),
        Beat(
            "runs",
            "Both trainings, as they went",
            prose=lambda view: (
                f"""
            Two recorded runs made the bundled tuned versions. Fine-tuning is measured on held-out answers, and on plain
            prose to see what it costs. Preference tuning is measured on held-out pairs: how often the margin is
            positive (before the first update every margin is 0), and where the two log-probabilities go.

            {cards.about_length()}
            """
            ),
            draw=runs,
            try_this="Look at DPO's log-probabilities. The loss asks only for a distance: does the chosen one rise?",
        ),
        Beat(
            "measured",
            "What tuning achieved, counted on held-out requests",
            prose=about_measured,
            draw=measured,
            try_this="Go through the kinds of requests. On which does preference tuning add most to fine-tuning?",
        ),
        Beat(
            "limits",
            "Does tuning teach what to answer, or only how?",
            prose=about_limits,
            draw=limits,
            try_this="Ask all questions. Which of the passes are luck? Read the answers with other seeds (in the bar).",
        ),
    ],
    bar=("focus", "seed"),
    asks=ASKED,
    parts=("training",),
)
