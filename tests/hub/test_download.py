"""Downloads from the Hub, played by a loopback server: what works, and one sentence for each way to fail."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

from engine import capture, load
from engine.checkpoints import catalogue, hub, packaged
from engine.model import fetching
from tests.hub.conftest import ignore, point_at, read_files, refusal
from tests.hub.server import REVISION, Repo

NAME = "owner/tiny"
WEIGHTS = "model.safetensors"


def edited(files, name, **changes):
    """Files with some keys of one JSON file replaced."""
    return {**files, name: json.dumps({**json.loads(files[name]), **changes}).encode()}


def test_a_good_checkpoint_downloads_and_loads(online, repo, good_files):
    before = fetching.describe(NAME)
    assert (before.cached, before.revision) == (False, REVISION)
    assert before.bytes == sum(map(len, good_files.values()))

    reports = []
    folder = fetching.download(NAME, lambda done, total: reports.append((done, total)))
    assert read_files(folder) == good_files
    assert reports == sorted(reports)
    assert reports[-1] == (before.bytes, before.bytes)

    online.requests.clear()
    assert hub.is_cached(NAME)
    assert fetching.describe(NAME) == hub.HubEntry(NAME, True, before.bytes, REVISION)
    loaded = load(NAME)
    assert loaded.revision == REVISION
    assert capture(loaded, "Once").logits.shape[1] == loaded.spec.vocab
    assert online.requests == []  # from here on the cache is enough


def test_only_what_loading_reads_is_asked_for(online, repo, good_files):
    fetching.download(NAME, ignore)
    assert set(online.fetched()) == set(good_files)


def test_shards_are_all_fetched(online, tiny_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    shards = {k: v for k, v in read_files(tmp_path / "sharded").items() if "safetensors" in k}
    small = {k: v for k, v in read_files(tiny_folder("gpt2")).items() if k != WEIGHTS}
    online.repos[NAME] = Repo({**small, **shards})

    folder = fetching.download(NAME, ignore)
    assert len(shards) > 3
    assert set(online.fetched()) == {*small, *shards}
    (folder / sorted(shards)[1]).unlink()
    assert not hub.is_cached(NAME)


def test_not_found(online):
    assert (
        refusal(fetching.describe, "owner/nothing")
        == "The Hub has no checkpoint called “owner/nothing” (404)."
    )


@pytest.mark.parametrize("status", [401, 403])
def test_gated(online, repo, status):
    repo.gate = (status, "GatedRepo")
    expected = (
        f"“owner/tiny” is gated ({status}): accept its conditions on its page on the Hub, "
        "set HF_TOKEN to a token of your account, and try again."
    )
    assert refusal(fetching.describe, NAME) == expected
    assert refusal(fetching.download, NAME, ignore) == expected
    assert not hub.is_cached(NAME)


def test_a_login_is_wanted_for_the_whole_repository(online, repo):
    repo.api = (401, "")
    assert refusal(fetching.describe, NAME) == (
        "The Hub shows “owner/tiny” to nobody without a login (401): set HF_TOKEN, or check the name."
    )


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (429, "The Hub has had too many requests from this address (429); try “owner/tiny” again later."),
        (503, "The Hub could not deliver “owner/tiny”: it answered with status 503."),
    ],
)
def test_the_hub_is_out_of_order(online, repo, status, sentence):
    repo.api = (status, "")
    assert refusal(fetching.describe, NAME) == sentence


def test_connection_refused(monkeypatch, tmp_path):
    with socket.socket() as taken:  # bound, not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        point_at(monkeypatch, f"http://{host}", tmp_path)
        expected = (
            f"The Hub ({host}) cannot be reached from this machine, so “owner/tiny” was not downloaded."
        )
        assert refusal(fetching.describe, NAME) == expected
        assert refusal(fetching.download, NAME, ignore) == expected


def test_no_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        point_at(monkeypatch, f"http://{host}", tmp_path)
        assert refusal(fetching.describe, NAME) == (
            f"The Hub ({host}) did not answer in time, so “owner/tiny” was not downloaded."
        )


def test_offline_mode(online, repo, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal(fetching.describe, NAME) == (
        "“owner/tiny” is not on this machine, and HF_HUB_OFFLINE forbids downloading it."
    )
    assert online.requests == []


def cut(body):
    return body[:-7]


def flip(body):
    return body[:-1] + bytes([body[-1] ^ 1])


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json"])
@pytest.mark.parametrize("spoil", [cut, flip])
def test_a_file_that_arrives_cut_short_or_changed(online, repo, spoil, file):
    repo.body = {file: spoil}
    assert refusal(fetching.download, NAME, ignore) == (
        "A file of “owner/tiny” arrived cut short or damaged and was thrown away; try again."
    )
    assert not hub.is_cached(NAME)
    repo.body = {}
    fetching.download(NAME, ignore)  # nothing of the damaged file was left behind
    assert hub.is_cached(NAME)


@pytest.mark.parametrize(
    "chunk", [1 << 16, 1 << 24]
)  # with something received before the break, and with nothing
def test_a_connection_that_always_breaks_off(online, repo, monkeypatch, chunk):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    repo.breaks = frozenset({WEIGHTS})
    host = online.address.removeprefix("http://")
    assert refusal(fetching.download, NAME, ignore) == (
        f"The connection to the Hub ({host}) broke off while “owner/tiny” was downloaded."
    )
    assert online.fetched().count(WEIGHTS) < 10


def test_only_pickled_weights(online, repo):
    del repo.files[WEIGHTS]
    expected = (
        "“owner/tiny” has only pickled weights (pytorch_model.bin), which can run code when they are read; "
        "this app reads safetensors only."
    )
    assert refusal(fetching.describe, NAME) == expected
    assert refusal(fetching.download, NAME, ignore) == expected
    assert online.fetched() == []


def test_unsupported_model_type(online, repo):
    repo.files = edited(repo.files, "config.json", model_type="mamba")
    supported = "gpt2, llama, qwen2, qwen3, gpt_neox, mistral, stablelm, phi, olmo2, gpt_neo, starcoder2"
    expected = f"“owner/tiny” names the unsupported model_type “mamba”; supported are {supported}."
    assert refusal(fetching.describe, NAME) == expected
    assert refusal(fetching.download, NAME, ignore) == expected
    assert set(online.fetched()) == {"config.json"}  # refused before the weights


def test_an_attribute_the_adapter_does_not_know(online, repo):
    repo.files = edited(repo.files, "config.json", scale_attn_by_inverse_layer_idx=True)
    assert "scale_attn_by_inverse_layer_idx" in refusal(fetching.download, NAME, ignore)
    assert set(online.fetched()) == {"config.json"}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code(online, repo, file):
    repo.files = edited(repo.files, file, auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    assert refusal(fetching.download, NAME, ignore) == (
        "“owner/tiny” wants to run Python code of its own, which never happens here."
    )
    assert not hub.is_cached(NAME)
    assert not any(name.endswith((".py", ".bin")) for name in online.fetched())


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_config_that_is_no_json(online, repo, text):
    repo.files = {**repo.files, "config.json": text}
    assert refusal(fetching.describe, NAME) == "The config.json of “owner/tiny” is not valid JSON."


def test_a_config_too_large_to_be_one_is_not_fetched(online, repo):
    repo.files = {**repo.files, "config.json": b" " * 1_000_001}
    assert refusal(fetching.describe, NAME) == (
        "The config.json of “owner/tiny” has 1.0 MB, more than any config needs."
    )
    assert online.fetched() == []


QUANTIZED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}


def test_weights_that_another_tool_has_quantized_are_refused_by_the_config(online, repo):
    repo.files = edited(repo.files, "config.json", **QUANTIZED)
    for sentence in (refusal(fetching.describe, NAME), refusal(fetching.download, NAME, ignore)):
        assert sentence.startswith("“owner/tiny” was already quantized by another tool (GPTQ)")
    assert set(online.fetched()) == {"config.json"}


def test_weights_that_another_tool_has_quantized_are_refused_by_the_listing(online, repo):
    repo.files = {**repo.files, "quantize_config.json": b"{}"}
    assert "(GPTQ)" in refusal(fetching.describe, NAME)
    assert online.fetched() == []


def test_an_adapter_alone_is_refused_with_what_it_adapts(online, repo):
    del repo.files[WEIGHTS], repo.files["config.json"]
    settings = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "meta/large"}).encode()
    repo.files |= {"adapter_config.json": settings, "adapter_model.safetensors": b"x"}
    assert refusal(fetching.describe, NAME) == (
        "“owner/tiny” is a LoRA adapter for “meta/large” without weights of its own; "
        "take a checkpoint that it is merged into."
    )
    assert online.fetched() == ["adapter_config.json"]


@pytest.mark.parametrize("settings", [b"{}", b'{"base_model_name_or_path": 7}'])
def test_an_adapter_that_does_not_say_what_it_adapts(online, repo, settings):
    del repo.files[WEIGHTS]
    repo.files["adapter_config.json"] = settings
    assert refusal(fetching.describe, NAME).startswith(
        "“owner/tiny” is a LoRA adapter without weights of its own;"
    )


def test_an_adapter_beside_full_weights_is_refused_by_the_listing(online, repo):
    repo.files["adapter_config.json"] = b"{}"
    assert "beside full weights" in refusal(fetching.describe, NAME)
    assert online.fetched() == []


def test_remote_code_of_a_tokenizer_is_refused_before_the_weights(online, repo):
    repo.files = edited(
        repo.files, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}
    )
    refusal(fetching.download, NAME, ignore)
    assert WEIGHTS not in online.fetched()


@pytest.mark.parametrize("answer", [b"<html>Log in to this network</html>", b"[]", b'{"siblings": 1}'])
def test_a_page_in_the_place_of_the_hub(online, repo, answer):
    repo.answer = answer
    host = online.address.removeprefix("http://")
    assert refusal(fetching.describe, NAME) == (
        f"What answers at {host} does not speak as the Hub does, so “owner/tiny” was not downloaded."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_runs_full(online, repo, monkeypatch):
    open_file = Path.open

    def open_on_full_disk(path, mode="r", *arguments, **options):
        full = path.name.endswith(".incomplete") and "w" in mode and online.fetched()[:1] == ["config.json"]
        return open_file(Path("/dev/full") if full else path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_on_full_disk)  # the kernel answers ENOSPC to every write there
    assert refusal(fetching.download, NAME, ignore) == (
        "The disk ran full while “owner/tiny” was downloaded; the unfinished file was removed."
    )
    assert not hub.is_cached(NAME)


def test_a_disk_without_room_for_the_whole(online, repo, monkeypatch):
    usage = type("usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    repo.files = {**repo.files, WEIGHTS: bytes(3_000_000)}
    sentence = refusal(fetching.download, NAME, ignore)
    assert sentence.startswith("The disk is too full for “owner/tiny”: it needs ")
    assert sentence.endswith(" and 1 MB are free.")
    assert WEIGHTS not in online.fetched()


def test_a_cache_that_cannot_be_written(online, repo, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert refusal(fetching.download, NAME, ignore).startswith("“owner/tiny” was not downloaded: ")


def test_an_exception_from_progress_ends_the_download(online, repo):
    class Stopped(Exception):
        pass

    def stop(done, total):
        raise Stopped

    gone_on = threading.Event()

    def wait(body):
        gone_on.wait(10)
        return body

    repo.body = {"generation_config.json": wait}  # the first file after config.json
    with pytest.raises(Stopped):
        fetching.download(NAME, stop)
    gone_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("hub-download"):
            thread.join(10)
    assert WEIGHTS not in online.fetched()
    assert not hub.is_cached(NAME)


def test_half_a_download_is_not_cached(online, repo):
    fetching.describe(NAME)
    assert online.fetched() == ["config.json"]
    assert not hub.is_cached(NAME)


def test_the_bundled_checkpoints_and_questions_about_the_cache_need_no_network(monkeypatch):
    def connect(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.delenv("ANATOMY_CHECKPOINT", raising=False)
    for name in ("pocket-gpt2", "pocket-llama"):
        entry = fetching.describe(name)
        assert entry.cached
        assert entry.bytes > 15_000_000  # ten million parameters of two bytes, or a little fewer
        assert fetching.download(name, ignore) == catalogue.folder(name)
    assert not hub.is_cached("owner/elsewhere")
    assert hub.default_checkpoint() in catalogue.CATALOGUE


def test_gpt2_becomes_the_default_once_it_is_cached(online, repo, monkeypatch):
    monkeypatch.delenv("ANATOMY_CHECKPOINT", raising=False)
    monkeypatch.setattr(packaged, "find", lambda name: None)
    classic = "openai-community/gpt2"
    online.repos[classic] = repo
    assert hub.default_checkpoint() == "pocket-gpt2"
    fetching.download(classic, ignore)
    assert hub.default_checkpoint() == classic
    monkeypatch.setenv("ANATOMY_CHECKPOINT", "pocket-llama")
    assert hub.default_checkpoint() == "pocket-llama"


def test_the_environment_variable_is_enough():
    """HF_ENDPOINT alone, in a fresh process, as a reader would set it."""
    script = "from engine.model import fetching; print(fetching.describe('owner/none'))"
    done = run_fresh(script, HF_ENDPOINT="http://127.0.0.1:9")
    assert "The Hub (127.0.0.1:9) cannot be reached from this machine" in done.stderr


def test_asking_for_the_default_checkpoint_imports_nothing_heavy():
    script = """
        import sys
        from engine.checkpoints import catalogue, hub, packaged
        from engine.model import fetching
        hub.default_checkpoint()
        print(sorted({"torch", "transformers", "httpx2", "numpy"} & set(sys.modules)))
    """
    assert run_fresh(script).stdout.strip() == "[]"


def run_fresh(script, **environment):
    import textwrap

    drop = ("HF_HUB_OFFLINE", "ANATOMY_CHECKPOINT")
    inherited = {key: value for key, value in os.environ.items() if key not in drop}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NAMES = """gpt2 openai-community/gpt2 a a.b/c_d-e x/y.git a--b a/b--c a/..b .a a. -a a- a/-b a/b/c a//b /a a/ é/b a\\tb
    datasets/foo/bar https://huggingface.co/gpt2 a<b 10/10 _a a_""".split()


@pytest.mark.parametrize("name", [*NAMES, "", " ", "a b", "a\0", "a\ud800", "a" * 96, "a" * 97, "a\n"])
def test_hub_ids_have_the_form_that_huggingface_hub_accepts(name):
    try:
        validate_repo_id(name)
        accepted = True
    except HFValidationError:
        accepted = False
    assert catalogue.is_hub_id(name) == accepted


def test_a_name_that_is_nothing(online):
    assert refusal(fetching.describe, "no such thing!") == (
        "“no such thing!” is neither a listed checkpoint, nor a folder or .gguf file here, nor a Hub id such as "
        "owner/name."
    )
    assert online.requests == []


@pytest.mark.parametrize(
    "name", ["~\0", "x" * 100_000, "\ud800", "~nobody-here/x", "con/../..", "", "/nowhere"]
)
def test_no_text_is_an_unhandled_name(online, name):
    assert len(refusal(fetching.download, name, ignore)) < 250
    assert not hub.is_cached(name)
    assert online.requests == []


def test_a_public_copy_offers_listed_checkpoints_only(online, repo, monkeypatch, tmp_path):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    for name in (NAME, str(tmp_path)):
        assert refusal(fetching.describe, name).endswith(
            "is not one of the checkpoints that this public copy offers."
        )
    assert catalogue.known("pocket-llama")
    assert online.requests == []


def test_a_public_copy_downloads_nothing_and_offers_what_is_on_its_machine(online, repo, monkeypatch):
    monkeypatch.setattr(packaged, "find", lambda name: None)
    classic, larger = "openai-community/gpt2", "Qwen/Qwen3-0.6B"
    online.repos[classic] = online.repos[larger] = repo
    fetching.download(larger, ignore)
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    asked = len(online.requests)
    for action in (lambda: fetching.describe(classic), lambda: fetching.download(classic, ignore)):
        assert refusal(action) == (
            f"“{classic}” is not on the server of this public copy, and nothing is downloaded to it."
        )
    assert len(online.requests) == asked
    assert catalogue.offered() == ["pocket-gpt2", "pocket-llama", larger]
    monkeypatch.setattr(catalogue, "PUBLIC_BYTES", 1_000_000)
    assert refusal(fetching.describe, larger).startswith(
        f"“{larger}” has weights of 0.0 GB at fp32, and this "
    )
    assert catalogue.offered() == ["pocket-gpt2", "pocket-llama"]


def test_the_default_is_the_best_known_checkpoint_here_but_on_a_public_copy_none_that_was_fetched(
    online, repo, monkeypatch
):
    monkeypatch.delenv("ANATOMY_CHECKPOINT", raising=False)
    classic, talking, packages = "openai-community/gpt2", "SmolLM2-135M-Instruct", []
    monkeypatch.setattr(packaged, "find", lambda name: Path() if name in packages else None)
    online.repos[classic] = repo
    assert hub.default_checkpoint() == "pocket-gpt2"
    packages.append(talking)
    assert hub.default_checkpoint() == talking
    fetching.download(classic, ignore)
    assert hub.default_checkpoint() == classic
    catalogue.make_public()
    assert hub.default_checkpoint() == talking
    packages.clear()
    assert hub.default_checkpoint() == "pocket-gpt2"
    monkeypatch.setenv("ANATOMY_CHECKPOINT", classic)
    assert hub.default_checkpoint() == classic
    monkeypatch.setenv("ANATOMY_CHECKPOINT", "Qwen/Qwen2.5-0.5B")
    assert "not on the server" in refusal(hub.default_checkpoint)


def test_full_disk_by_any_name():
    from engine.checkpoints.hub_errors import sentence

    for error in (
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        RuntimeError("No space left on device"),
    ):
        assert sentence(NAME, error).startswith("The disk ran full while “owner/tiny” was downloaded")
