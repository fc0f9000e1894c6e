"""`nn.MultiheadAttention` with heads of any number and width, to which edits convert it.

Torch's own forward asserts that all heads together are as wide as the stream, so a head, a head
dimension or a channel of the stream could not be removed alone. The layer here computes the same
from the same parameters, and takes every size from them.

Shape letters: `N` samples, `L` queries, `S` keys, `E` channels of the stream, `H` heads, `D`
dimensions of queries and keys in a head, `V` dimensions of values in a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.errors import RamifyError
from ramify.tracing.kept_state import giving_back
from ramify.tracing.modes import ABSENT, set_attribute
from ramify.tracing.walk import modules_of


class ResizedMultiheadAttention(nn.MultiheadAttention):
    r"""`nn.MultiheadAttention` with independent numbers of heads, head dimensions and channels.

    Each head :math:`h` computes :math:`\operatorname{softmax}(s\, q_h k_h^T + \text{masks})\, v_h`,
    and the output projection reads the concatenated heads. :math:`s` is the `scale` of the layer
    before any edit. Parameters have the names of `nn.MultiheadAttention`: `in_proj_weight` of shape
    (2·H·D + H·V, E), or `q_proj_weight`, `k_proj_weight` and `v_proj_weight`; and `out_proj.weight`
    of shape (E, H·V). Arguments and results are those of `nn.MultiheadAttention`, but nested
    tensors are not supported. The layer never takes the fused inference path, which requires heads
    of equal width.

    `ramify.apply` changes an `nn.MultiheadAttention` to this class when an edit changes its sizes.
    The object stays the same, and can be pickled, copied, exported and loaded like any module.

    Attributes:
        scale: the factor of the products of queries and keys.

    Args:
        *args: the arguments of `nn.MultiheadAttention`.
        **kwargs: the keyword arguments of `nn.MultiheadAttention`.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> attention, x = nn.MultiheadAttention(8, 4, batch_first=True), torch.randn(2, 5, 8)
        >>> inputs = {"query": x, "key": x, "value": x, "need_weights": False}
        >>> graph = ramify.trace(attention, inputs)
        >>> [group.width for group in graph.groups if group.can_prune]  # heads, D, V
        [4, 2, 2]
        >>> graph = ramify.apply(graph, [ramify.Prune(graph.groups[0].name, 1)])
        >>> type(attention).__name__, attention.num_heads, attention.in_proj_weight.shape
        ('ResizedMultiheadAttention', 3, torch.Size([18, 8]))

    Source: Vaswani et al., 2017, equation (1); `torch.nn.functional.multi_head_attention_forward`.
    """

    scale: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.head_dim**-0.5

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """Always False, so that `nn.TransformerEncoderLayer` does not use its fused kernel."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        vars(self)["_qkv_same_embed_dim"] = value

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as `nn.MultiheadAttention` does.

        Args:
            query: (L, N, E), (N, L, E) if `batch_first`, or (L, E) for one sample.
            key: (S, N, `kdim`), (N, S, `kdim`) or (S, `kdim`).
            value: (S, N, `vdim`), (N, S, `vdim`) or (S, `vdim`).
            key_padding_mask: (N, S) or (S,); true for keys to ignore, or numbers to add.
            need_weights: whether to return the attention weights.
            attn_mask: (L, S) or (N·H, L, S); true where a query ignores a key, or numbers to add.
            average_attn_weights: whether to return the mean of the heads' weights.
            is_causal: a hint that `attn_mask` is causal, so that it need not be read.

        Returns:
            (the output, in the layout of `query`; the attention weights of shape (N, L, S), or
            (N, H, L, S) if not averaged, without N for one sample, or None if not requested).

        Raises:
            RamifyError: an input is a nested tensor, or `is_causal` is set without `attn_mask`.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise RamifyError(
                "an nn.MultiheadAttention with heads of other sizes takes no nested tensors: give "
                "a padded tensor and its `key_padding_mask`"
            )
        if is_causal and attn_mask is None:
            raise RamifyError("is_causal says what attn_mask is: give the causal attn_mask too")
        batched = query.dim() == 3
        q, k, v = (self._heads(each, batched) for each in self._projected(query, key, value))
        k, v, added = self._with_extra_keys(k, v)
        causal = is_causal and key_padding_mask is None and not need_weights
        seen = None if causal else attn_mask
        mask = self._merged(seen, key_padding_mask, query.dtype, q.shape[0], added)
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropped) if dropped else weights
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(
                q, k, v, mask, dropped, is_causal=causal, scale=self.scale
            )
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        out = F.linear(self._side_by_side(out, batched), self.out_proj.weight, self.out_proj.bias)
        return out, weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of all heads: shapes (..., H·D), (..., H·D), (..., H·V)."""
        rows = self.num_heads * self.head_dim
        bias = self.in_proj_bias
        biases: tuple[Tensor | None, ...] = (None, None, None)
        packed = cast(Tensor | None, self.in_proj_weight)
        if packed is not None:
            sizes = [rows, rows, packed.shape[0] - 2 * rows]
            if query is key and key is value:  # one product for all three
                return F.linear(query, packed, bias).split(sizes, dim=-1)
            weights = packed.split(sizes)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            sizes = [rows, rows, self.v_proj_weight.shape[0]]
        if bias is not None:
            biases = bias.split(sizes)
        inputs = zip((query, key, value), weights, biases, strict=True)
        return tuple(F.linear(x, weight, own) for x, weight, own in inputs)

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """(N, H, L, D), with N = 1 for one sample."""
        x = x.unflatten(-1, (self.num_heads, -1))
        if not batched:
            return x.transpose(0, 1).unsqueeze(0)
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _side_by_side(self, x: Tensor, batched: bool) -> Tensor:
        """Concatenate the heads of (N, H, L, V), in the layout of the queries."""
        if not batched:
            return x.squeeze(0).transpose(0, 1).flatten(-2)
        order = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        return x.permute(order).flatten(-2)

    def _with_extra_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """The keys and values with those that the layer appends, and the number appended."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            one, other = (
                bias.unflatten(-1, (self.num_heads, -1))
                .transpose(1, 2)
                .expand(k.shape[0], -1, -1, -1)
                for bias in (self.bias_k, self.bias_v)
            )
            k, v, added = torch.cat([k, one], dim=2), torch.cat([v, other], dim=2), 1
        if self.add_zero_attn:
            k, v, added = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), added + 1
        return k, v, added

    def _merged(
        self,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        dtype: torch.dtype,
        samples: int,
        added: int,
    ) -> Tensor | None:
        """The mask added to the scores (N, H, L, S); zero for appended keys."""
        merged: Tensor | None = None
        if attn_mask is not None:
            merged = _as_numbers(attn_mask, dtype)
            if merged.dim() == 3:
                merged = merged.unflatten(0, (samples, self.num_heads))
        if key_padding_mask is not None:
            padding = _as_numbers(key_padding_mask, dtype).reshape(samples, 1, 1, -1)
            merged = padding if merged is None else merged + padding
        return F.pad(merged, (0, added)) if merged is not None and added else merged


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add: minus infinity where it is true."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def is_stock(module: nn.Module) -> bool:
    """Whether a module is torch's own attention layer, not a subclass."""
    return type(module) is nn.MultiheadAttention


def conversion(module: nn.Module) -> list[tuple[str, object, object]]:
    """The changes that convert torch's own layer to the resizable one: (attribute, old, new)."""
    scale = vars(module).get("scale", ABSENT)
    return [
        ("__class__", type(module), ResizedMultiheadAttention),
        ("scale", scale, module.head_dim**-0.5),  # type: ignore[operator]
    ]


def nesting(model: nn.Module, path: str) -> list[nn.TransformerEncoder]:
    """The encoders around a module that would pass it nested tensors."""
    parts = path.split(".")
    above = [model.get_submodule(".".join(parts[:n])) for n in range(len(parts))]
    return [m for m in above if isinstance(m, nn.TransformerEncoder) and m.use_nested_tensor]


@contextmanager
def of_free_sizes(model: nn.Module) -> Iterator[None]:
    """Make torch's own attention layers resizable inside the `with` block."""
    changed = [
        (module, name, old, new)
        for module in modules_of(model).values()
        if is_stock(module)
        for name, old, new in conversion(module)
    ]
    steps = [("a layer", partial(set_attribute, each, name, old)) for each, name, old, _ in changed]
    with giving_back(lambda: steps):
        for module, name, _, new in changed:
            set_attribute(module, name, new)
        yield


def convert(module: nn.Module, resized: bool) -> None:
    """Change an attention layer to the resizable class, or back to torch's own."""
    if resized and is_stock(module):
        for name, _, new in conversion(module):
            set_attribute(module, name, new)
    elif not resized and type(module) is ResizedMultiheadAttention:
        set_attribute(module, "__class__", nn.MultiheadAttention)
        set_attribute(module, "scale", ABSENT)
