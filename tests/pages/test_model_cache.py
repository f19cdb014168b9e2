"""Models in memory: what a page is using stays, the least recently used makes room, before anything is loaded."""

import gc
import threading
import weakref
from dataclasses import dataclass

import pytest

from engine import ReaderError
from engine.evidence.card import Card
from pages._shared import model_cache, resources, work
from pages._shared.model_cache import Key, ModelCache, Room
from tests.pages.conftest import BUNDLED, Visit, open_app, watched

A, B, C, D = (Key(name, "fp32") for name in "ABCD")
SIZE = 10


@dataclass
class Fake:
    nbytes: int = SIZE


class Machine:
    """A cache of fakes of 10 bytes each on a machine of some bytes, and the order in which they were loaded."""

    def __init__(self, total: int = 1000, limit: int = 1000) -> None:
        self.total, self.loads = total, []
        self.cache: ModelCache[Fake] = ModelCache(
            needed=lambda key: SIZE,
            free=lambda: self.total - self.held(),
            limit=lambda room: limit,
            refuse=self.refuse,
        )

    def held(self) -> int:
        return sum(SIZE for key in (A, B, C, D) if key in self.cache)

    def refuse(self, key: Key, needs: int, room: Room) -> None:
        if room.free is not None and needs > room.free + room.leaving:
            raise ReaderError("full")

    def get(self, key: Key, page=None) -> Fake:
        def load():
            self.loads.append(key)
            self.most = max(getattr(self, "most", 0), self.held() + SIZE)
            return Fake()

        return self.cache.get(key, load, page)


def test_three_models_of_one_page_over_the_limit_are_loaded_once_each():
    machine = Machine(limit=2 * SIZE)
    page = machine.cache.page()
    for _ in range(4):  # four runs of a page whose beats use them in turn
        page.begin("15")
        for key in (A, B, C, A, B, C):
            machine.get(key, page)
    assert machine.loads == [A, B, C]


def test_what_no_page_uses_leaves_the_least_recently_used_first():
    machine = Machine(limit=2 * SIZE)
    machine.get(A)
    machine.get(B)
    machine.get(A)
    machine.get(C)
    assert [key in machine.cache for key in (A, B, C)] == [True, False, True]


def test_room_is_made_before_the_new_model_is_loaded():
    machine = Machine(limit=2 * SIZE)
    for key in (A, B, C, D):
        machine.get(key)
    assert machine.most == 2 * SIZE


def test_a_model_that_leaves_is_given_back_at_once():
    machine = Machine(limit=SIZE)
    left = weakref.ref(machine.get(A))
    gc.disable()
    try:
        machine.get(B)
    finally:
        gc.enable()
    assert left() is None


def test_a_model_that_was_set_aside_with_the_libraries_is_given_back_too():
    machine = Machine(limit=SIZE)
    model = machine.get(A)
    model.hooks = [model]  # as a model and its hooks refer to one another
    gone = weakref.ref(model)
    del model
    gc.freeze()
    try:
        machine.get(B)
        assert gone() is None
    finally:
        gc.unfreeze()


def test_a_page_that_was_left_gives_its_models_up():
    machine = Machine(limit=2 * SIZE)
    page = machine.cache.page()
    page.begin("15")
    machine.get(A, page)
    machine.get(B, page)
    page.begin("4")
    machine.get(C, page)
    assert A not in machine.cache


def test_what_another_sessions_page_is_using_stays():
    machine = Machine(total=2 * SIZE)
    theirs, mine = machine.cache.page(), machine.cache.page()
    machine.get(A, theirs)
    machine.get(B)
    machine.get(C, mine)
    assert [key in machine.cache for key in (A, B, C)] == [True, False, True]


def test_when_all_are_in_use_the_reader_is_told_and_nothing_leaves():
    machine = Machine(total=2 * SIZE)
    theirs, mine = machine.cache.page(), machine.cache.page()
    machine.get(A, theirs)
    machine.get(B, mine)
    with pytest.raises(ReaderError, match="full"):
        machine.get(C, mine)
    assert [key in machine.cache for key in (A, B, C)] == [True, True, False]


def test_a_page_may_give_up_what_only_its_last_run_used():
    machine = Machine(total=2 * SIZE)
    page = machine.cache.page()
    page.begin("15")
    machine.get(A, page)
    machine.get(B, page)
    page.begin("15")
    machine.get(A, page)
    machine.get(C, page)  # another precision was chosen
    assert [key in machine.cache for key in (A, B, C)] == [True, False, True]


def test_a_session_that_has_ended_holds_nothing():
    machine = Machine(total=SIZE)
    page = machine.cache.page()
    machine.get(A, page)
    del page
    gc.collect()
    machine.get(B)
    assert A not in machine.cache


def test_a_page_that_nobody_touches_gives_way(monkeypatch):
    machine = Machine(total=SIZE)
    page = machine.cache.page()
    machine.get(A, page)
    monkeypatch.setattr(model_cache, "IDLE_SECONDS", -1.0)
    machine.get(B)
    assert A not in machine.cache


def test_a_model_that_failed_to_load_is_not_in_use():
    machine = Machine()
    page = machine.cache.page()

    def fail():
        raise ReaderError("damaged")

    with pytest.raises(ReaderError, match="damaged"):
        machine.cache.get(A, fail, page)
    assert A not in machine.cache
    assert page.used == set()


def test_many_readers_at_once_load_a_model_once():
    machine = Machine()
    threads = [threading.Thread(target=machine.get, args=(A, machine.cache.page())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.loads == [A]


def test_the_limit_follows_the_machine_and_is_never_under_what_is_always_kept(monkeypatch):
    monkeypatch.delenv("ANATOMY_PUBLIC", raising=False)
    assert resources._limit(Room(held=4_000_000_000, free=12_000_000_000, leaving=0)) == 8_000_000_000
    assert resources._limit(Room(held=0, free=500_000_000, leaving=0)) == resources.KEPT_BYTES
    assert resources._limit(Room(held=0, free=None, leaving=0)) == resources.KEPT_BYTES


def test_a_public_copy_has_a_fixed_limit(monkeypatch):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    assert resources._limit(Room(held=4_000_000_000, free=12_000_000_000, leaving=0)) == resources.KEPT_BYTES


def test_a_public_copy_refuses_what_would_pass_its_limit_beside_what_is_in_use(monkeypatch):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    key, free = Key("Qwen/Qwen2.5-0.5B", "fp16"), 12_000_000_000
    resources._refuse(key, 1_000_000_000, Room(500_000_000, free, leaving=500_000_000))
    with pytest.raises(ReaderError, match="memory of this public copy"):
        resources._refuse(key, 1_000_000_000, Room(500_000_000, free, leaving=0))
    resources._refuse(Key("pocket-gpt2", "fp32"), 1_000_000_000, Room(500_000_000, free, leaving=0))


def test_what_cannot_fit_is_told_with_what_could_be_free(monkeypatch):
    monkeypatch.delenv("ANATOMY_PUBLIC", raising=False)
    with pytest.raises(ReaderError, match=r"“m” at fp32 needs 5\.0 GB of memory, and 3\.0 GB are free"):
        resources._refuse(
            Key("/models/m", "fp32"), 5_000_000_000, Room(3_000_000_000, 2_000_000_000, 1_000_000_000)
        )


# Results that are kept


def kept_cards():
    """The cards among the results that the process keeps."""
    made = [job.result for job, _ in work._results.values()]
    lists = [result[0] for result in made if isinstance(result, tuple) and isinstance(result[0], list)]
    return [card for cards in lists for card in cards if isinstance(card, Card)]


@pytest.mark.parametrize("name", [pytest.param(BUNDLED[0], marks=pytest.mark.slow), *BUNDLED[1:]])
def test_a_model_that_leaves_is_freed_while_chapter_15s_cards_are_kept(name, monkeypatch):
    machine = ModelCache(lambda key: 0, lambda: None, lambda room: 10**12, lambda key, needs, room: None)
    monkeypatch.setattr(resources, "_models", machine)
    visit = Visit()
    app = open_app(checkpoint=name)
    work.forget()  # what Home has made
    with watched(visit):
        app.switch_page("pages/15_Quantization.py").run()
    here = [weakref.ref(model.model) for model, _ in machine._models.values()]
    drawn = {id(card) for cards in visit.cards.values() for card in cards}
    assert len(here) == 6, "every precision was loaded"
    assert drawn == {id(card) for card in kept_cards()}
    gc.unfreeze()
    machine._models.clear()
    gc.collect()
    assert [there() for there in here if there() is not None] == []
    kl = next(card for card in kept_cards() if card.key == "kl")
    assert kl.prove().passed
    assert len(machine._models) == 2, "a proof loads what it needs"
