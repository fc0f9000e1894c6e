"""Networks whose gated reads the tests know by hand: hooks that multiply what modules read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ramify.models.preresnet import PreResNet
from tests import nets
from tests.structures.base import scatter

Alphas = Mapping[str, Tensor]
Table = Callable[[Alphas], dict[str, Tensor]]
"""The gates by group -> for modules by name, a factor for each channel of their input or output."""


class Dense(nn.Module):
    """Each layer reads all before it side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.n, self.c, self.fc = nn.BatchNorm2d(7), nn.Conv2d(7, 5, 1), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = relu(self.a(x))
        ab = torch.cat([a, self.b(a)], 1)
        abc = torch.cat([ab, self.c(relu(self.n(ab)))], 1)
        return self.fc(abc.mean((2, 3)))


class Flat(nn.Module):
    """A map of 4 × 2 positions flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(relu(self.n(self.a(x))).flatten(1))


@dataclass(frozen=True)
class Case:
    """A network, its input, and where its gates act.

    Attributes:
        build: the network, or None where an optional package is not there.
        inputs: as `ramify.trace` takes them.
        reads: module -> factors of its input's channels.
        makes: module -> factors of its output's channels (both factors of an attention's product).
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    reads: Table
    makes: Table = lambda alphas: {}


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(3, *shape, dtype=torch.float64)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 20, (2, 5))}


def swin() -> nn.Module:
    import transformers

    config = transformers.SwinConfig(
        image_size=8, patch_size=2, embed_dim=6, depths=[2, 1], num_heads=[2, 3], window_size=2
    )
    return transformers.SwinForImageClassification(config)


def gpt2() -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=20, n_embd=12, n_layer=1, n_head=3, n_positions=8, use_cache=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=10, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=20, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


SWIN = [("0.blocks.0", 2), ("0.blocks.1", 2), ("1.blocks.0", 3)]


def _swin_reads(alphas: Alphas) -> dict[str, Tensor]:
    out = {}
    for layer, _ in SWIN:
        at = f"swin.encoder.layers.{layer}"
        width = len(alphas[f"{at}.attention.q_proj:1"])
        heads = alphas[f"{at}.attention.q_proj:0"]
        out[f"{at}.attention.o_proj"] = heads.repeat_interleave(width)
        out[f"{at}.mlp.fc2"] = alphas[f"{at}.mlp.fc1"]
    return out


def _swin_makes(alphas: Alphas) -> dict[str, Tensor]:
    out = {}
    for layer, heads in SWIN:
        at = f"swin.encoder.layers.{layer}.attention"
        out |= {f"{at}.{one}_proj": alphas[f"{at}.q_proj:1"].repeat(heads) for one in "qkv"}
    return out


def _preresnet(alphas: Alphas) -> dict[str, Tensor]:
    out = {"head": alphas["blocks.2.shortcut"]}
    for block, stream in enumerate(("stem", "blocks.0.shortcut", "blocks.1.shortcut")):
        at = f"blocks.{block}"
        out |= {f"{at}.conv1": alphas[stream], f"{at}.shortcut": alphas[stream]}
        out |= {f"{at}.conv{n}": alphas[f"{at}.conv{n - 1}"] for n in (2, 3)}
    return out


LLAMA, GPT2 = "model.layers.0", "transformer.h.0"
CASES: dict[str, Case] = {
    "cnn": Case(nets.ConvNormSoftplus, image(3, 6, 6), lambda a: {"b": a["a"], "c": a["b"]}),
    "residual": Case(
        nets.Residual,
        image(3, 5, 5),
        lambda a: {"a2": a["a1"], "b2": a["b1"]} | dict.fromkeys(("a1", "b1", "fc"), a["stem"]),
    ),
    "depthwise": Case(nets.Depthwise, image(3, 5, 5), lambda a: {"q": a["p"], "fc": a["q"]}),
    "squeeze-excite": Case(
        nets.SqueezeExcite, image(3, 5, 5), lambda a: {"f": a["p"], "fc": a["p"], "g": a["f"]}
    ),
    "dense": Case(
        Dense,
        image(3, 5, 5),
        lambda a: {
            "b": a["a"],
            "c": torch.cat([a["a"], a["b"]]),
            "fc": torch.cat([a["a"], a["b"], a["c"]]),
        },
    ),
    "flatten": Case(Flat, image(3, 6, 4), lambda a: {"fc": a["a"].repeat_interleave(8)}),
    "preresnet": Case(lambda: PreResNet(3, 4, 11, 2), image(3, 8, 8), _preresnet),
    "vit-block": Case(
        nets.Attending,
        image(5, 4),
        lambda a: {"proj": a["qkv:1"].repeat_interleave(3), "down": a["gate"]},
        lambda a: {"qkv": a["qkv:2"].repeat(3 * 2)},
    ),
    "swin": Case(swin, lambda: {"pixel_values": image(3, 8, 8)()}, _swin_reads, _swin_makes),
    "gpt2": Case(
        gpt2,
        tokens,
        lambda a: {
            f"{GPT2}.attn.c_proj": a[f"{GPT2}.attn.c_attn:1"].repeat_interleave(4),
            f"{GPT2}.mlp.c_proj": a[f"{GPT2}.mlp.c_fc"],
        },
        lambda a: {f"{GPT2}.attn.c_attn": a[f"{GPT2}.attn.c_attn:2"].repeat(3 * 3)},
    ),
    # Groups of heads, heads in a group, channels: rotation mixes channels i and i + 2 of a head.
    "llama": Case(
        llama,
        tokens,
        lambda a: {
            f"{LLAMA}.self_attn.o_proj": (
                a[f"{LLAMA}.self_attn.q_proj:0"].repeat_interleave(8)
                * a[f"{LLAMA}.self_attn.q_proj:1"].repeat_interleave(4).repeat(2)
            ),
            f"{LLAMA}.mlp.down_proj": a[f"{LLAMA}.mlp.gate_proj"],
        },
        lambda a: {
            f"{LLAMA}.self_attn.{one}_proj": a[f"{LLAMA}.self_attn.q_proj:2"].repeat(2 * heads)
            for one, heads in (("q", 4), ("k", 2), ("v", 2))
        },
    ),
}


def made(name: str) -> tuple[nn.Module, Any]:
    """A float64 network with used running statistics, in eval mode, and its input."""
    torch.manual_seed(0)
    case = CASES[name]
    model, inputs = case.build().double(), case.inputs()
    scatter(model)
    return model.eval(), inputs


@contextmanager
def by_hand(name: str, model: nn.Module, alphas: Alphas) -> Iterator[None]:
    """What modules read and make, multiplied by hooks."""
    case, handles = CASES[name], []
    try:
        for module, factor in case.reads(alphas).items():
            own = model.get_submodule(module)
            hook = lambda own, args, f=factor: (_times(own, args[0], f), *args[1:])  # noqa: E731
            handles.append(own.register_forward_pre_hook(hook))
        for module, factor in case.makes(alphas).items():
            own = model.get_submodule(module)
            hook = lambda own, args, out, f=factor: _times(own, out, f)  # noqa: E731
            handles.append(own.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(module: nn.Module, tensor: Tensor, factor: Tensor) -> Tensor:
    image = isinstance(module, nn.Conv2d)
    return tensor * (factor[:, None, None] if image else factor)
