"""A corpus and a checkpoint for post-training, so small that a whole run takes a second."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

NOUNS = "fox hen river wood night stone house child king crow lamp boat road bird tree wolf".split()
VERBS = "saw found left heard passed knew missed loved feared".split()


def book(seed: int, count: int) -> str:
    """Paragraphs of three to five sentences, in which nouns stand before stops and adjectives before nouns."""
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        a, b, c = (NOUNS[i] for i in rng.choice(len(NOUNS), 3, replace=False))
        verb, then = VERBS[rng.integers(len(VERBS))], VERBS[rng.integers(len(VERBS))]
        end = "so".join([""] * (1 + rng.integers(10)))
        return f"The old {a} {verb} a {b} in the morn{end}, and {then} the {c}."

    return "\n\n".join(" ".join(sentence() for _ in range(rng.integers(3, 6))) for _ in range(count))


@pytest.fixture(scope="session")
def story_corpus(tmp_path_factory) -> Path:
    """children.txt, adventure.txt and held_out.txt, the last long enough to be measured on."""
    folder = tmp_path_factory.mktemp("stories")
    for name, seeds in (("children", (1, 2)), ("adventure", (3, 4)), ("held_out", (5,))):
        text = "\0".join(book(seed, 160) for seed in seeds)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Tiny:
    """Folders of a tiny corpus and of a tiny Llama with a tokenizer that was trained on it."""

    corpus: Path
    base: Path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, story_corpus) -> Tiny:
    from engine.training.architectures import Shape, build
    from engine.training.checkpointing import save_snapshot
    from engine.training.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    text = (story_corpus / "children.txt").read_text(encoding="utf-8")
    templates = "Write a scene with: one sentence about the two sentences. Continue: " * 50
    save_tokenizer(train_tokenizer([text, templates], 400), folder, context=256)
    shape = Shape(vocab=400, layers=2, d_model=32, heads=2, kv_heads=1, d_ff=48, context=256)
    save_snapshot(build("llama", shape, seed=0), folder)
    return Tiny(story_corpus, folder)


@pytest.fixture
def killed(monkeypatch) -> Callable[[Callable[[], None]], None]:
    """A function that runs a tuning command and lets it die in its fourth update, as a killed process would."""
    from engine.training import fine_tuning

    def run(command: Callable[[], None]) -> None:
        real, done = fine_tuning.update, []

        def dying(*args):
            if len(done) == 3:
                raise KeyboardInterrupt
            done.append(1)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(fine_tuning, "update", dying)
            with pytest.raises(KeyboardInterrupt):
                command()

    return run
