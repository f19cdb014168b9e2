"""Small tokenizers of every kind, made on the spot, each with a tiny random model in an ordinary folder."""

import json

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.tokens import passages

START, END = "<s>", "</s>"
ADDED = ("   ", "é", "<tool_call>")
"""Added tokens that are not special: a run of spaces, an accented letter, a mark that a reader may type."""


def byte_level(alphabet, size=500):
    """A byte-level BPE trained on a tale; bytes outside `alphabet` that the tale lacks get no token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[START, END], initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([passages.passage()], trainer)
    return tokenizer


def started(tokenizer):
    """The same tokenizer with a start token put before every text, as Llama's and Gemma's do."""
    id = tokenizer.token_to_id(START)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, id)]
    )
    return tokenizer


def with_added():
    tokenizer = started(byte_level(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([*ADDED, AddedToken("of the", normalized=False)])
    return tokenizer


def normalizing():
    tokenizer = started(byte_level(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens(list(ADDED))
    return tokenizer


def sentencepiece():
    """BPE over characters with ▁ for a space, a space put first, and single bytes to fall back to (Llama 2)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", START, END, *single],
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(passages.passage().split(". "), trainer)
    written = json.loads(tokenizer.to_str())  # the single bytes are ordinary entries in Llama's file
    written["pre_tokenizer"] = None
    written["added_tokens"] = [t for t in written["added_tokens"] if t["content"] not in single]
    return started(Tokenizer.from_str(json.dumps(written)))


KINDS = {
    "start": lambda: started(byte_level(pre_tokenizers.ByteLevel.alphabet())),
    "added": with_added,
    "normalizing": normalizing,
    "lacking": lambda: started(byte_level([])),
    "sentencepiece": sentencepiece,
}


def save(kind, folder):
    """A folder with the tokenizer of a kind and a tiny Llama that reads it."""
    backend = KINDS[kind]()
    unknown = {"unk_token": "<unk>"} if kind == "sentencepiece" else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=END, **unknown)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=len(tokenizer),
        max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
