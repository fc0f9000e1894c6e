"""A small LLaMA for the documentation of Python's standard library.

The text comes from the running Python: the docstrings of every module, class and function, and the
language reference that `help()` shows. It depends on the version of Python.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.cut_networks.task import Batch, Task
from ramify.data.batching import seeded

TOKENS = 1024  # size of the vocabulary
LENGTH = 128  # tokens in a sequence
SAMPLES = 64  # calibration sequences
PART = 2500  # sequences for fine-tuning
TESTED = 32  # batch size for testing
LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data")


class Llama(nn.Module):
    """A LLaMA that takes tokens (S, T) and returns logits (S, T, V).

    Args:
        width: width of the residual stream.
        depth: number of layers.
    """

    def __init__(self, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=TOKENS,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=False,
        )
        self.net = LlamaForCausalLM(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (S, T, V) of the token after each of tokens (S, T)."""
        logits: Tensor = self.net(tokens, use_cache=False).logits
        return logits


def documents() -> list[str]:
    """The documentation of the standard library, one document per module or topic, in order."""
    found = []
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if any(part in LEFT_OUT for part in path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):  # files that are not meant to parse
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        said = [text for node in nodes if (text := ast.get_docstring(node))]
        if said:
            found.append("\n\n".join(said))
    return found + [topics[name] for name in sorted(topics)]


@cache
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """The documentation as tokens, with a vocabulary from the training documents.

    Returns:
        Sequences (N, T + 1) for training, validation and test; the last two come from a tenth of
        the documents each.
    """
    texts = documents()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    tenth = len(texts) // 10
    shares = [order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]]
    coder = Tokenizer(models.BPE())
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, initial_alphabet=letters, special_tokens=["<end>"], show_progress=False
    )
    coder.train_from_iterator([texts[at] for at in shares[0]], trainer)
    parts = []
    for share in shares:
        joined = [[*code.ids, 0] for code in coder.encode_batch([texts[at] for at in share])]
        flat = torch.tensor([token for code in joined for token in code])
        rows = (len(flat) - 1) // LENGTH
        parts.append(flat[: rows * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH).contiguous())
    return parts[0], parts[1], parts[2]


def task(build: Callable[[], nn.Module], size: int = 32) -> Task:
    """The documentation of the standard library for a network.

    Args:
        build: builds it.
        size: batch size in training.

    Returns:
        The task.
    """
    train, held, test = tokens()
    whole = lambda rows: [_pair(part) for part in rows.split(TESTED)]  # noqa: E731
    return Task(
        build,
        partial(_batches, train, size),
        partial(_batches, train[:PART], size),
        partial(_calibration, train),
        _calibration(train, 0),
        whole(held),
        whole(test),
    )


def _batches(rows: Tensor, size: int, seed: int, epoch: int) -> Iterator[Batch]:
    order = torch.randperm(len(rows), generator=seeded(seed, epoch))
    return (_pair(rows[at]) for at in order.split(size))


def _calibration(rows: Tensor, seed: int) -> list[Batch]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    return [_pair(rows[at]) for at in order.split(16)]


def _pair(rows: Tensor) -> Batch:
    return rows[:, :-1], rows[:, 1:]
