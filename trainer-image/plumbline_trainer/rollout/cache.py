"""A key-value cache whose rows come and go: grows without copying every token, drops and admits rows.

Rows are aligned at their right end: column `length - 1` holds every row's newest token, and a shorter row has padding
at its left. So a new row joins by padding whichever side is shorter, and a row leaves by selecting the others.
Layers with a sliding window are kept whole, and the attention mask does the sliding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from plumbline_trainer.failures import ModelError

_GROWTH = 1.5
_HEADROOM = 32


class GrowingLayer(DynamicLayer):
    """One layer: keys and values are views of the first columns of buffers that grow geometrically.

    Appending n tokens one by one copies O(n) columns in all, where concatenation copies O(n^2).
    """

    def __init__(self) -> None:
        super().__init__()
        self._length = 0
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends the columns of `key_states` and `value_states` [rows, heads, n, width] and returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        added = key_states.shape[-2]
        end = self._length + added
        self._key_buffer = _with_room(self._key_buffer, key_states, self._length, end)
        self._value_buffer = _with_room(self._value_buffer, value_states, self._length, end)
        self._key_buffer.narrow(2, self._length, added).copy_(key_states)
        self._value_buffer.narrow(2, self._length, added).copy_(value_states)
        self._show(end)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def select(self, rows: Tensor, drop_columns: int) -> None:
        """Keeps `rows` (int64 [n]) in that order, without the first `drop_columns` columns."""
        self._key_buffer = self.keys[:, :, drop_columns:].index_select(0, rows)
        self._value_buffer = self.values[:, :, drop_columns:].index_select(0, rows)
        self._show(self._length - drop_columns)

    def append_rows(self, other: GrowingLayer) -> None:
        """Adds the rows of `other` below this layer's; the shorter of the two is padded at its left."""
        length = max(self._length, other._length)
        self._key_buffer = _stacked(self.keys, other.keys, length)
        self._value_buffer = _stacked(self.values, other.values, length)
        self._show(length)

    def _show(self, length: int) -> None:
        assert self._key_buffer is not None and self._value_buffer is not None
        self._length = length
        self.keys = self._key_buffer.narrow(2, 0, length)
        self.values = self._value_buffer.narrow(2, 0, length)


def _with_room(buffer: Tensor | None, states: Tensor, used: int, needed: int) -> Tensor:
    if buffer is not None and needed <= buffer.shape[-2]:
        return buffer
    rows, heads, _, width = states.shape
    larger = states.new_empty(rows, heads, max(int(used * _GROWTH), needed) + _HEADROOM, width)
    if buffer is not None:
        larger[:, :, :used] = buffer[:, :, :used]
    return larger


def _stacked(upper: Tensor, lower: Tensor, length: int) -> Tensor:
    rows, heads, _, width = upper.shape
    stacked = upper.new_zeros(rows + lower.shape[0], heads, length + _HEADROOM, width)
    stacked[:rows, :, length - upper.shape[-2] : length] = upper
    stacked[rows:, :, length - lower.shape[-2] : length] = lower
    return stacked


class RowCache:
    """The cache of the rows that are being generated."""

    def __init__(self, config: PretrainedConfig) -> None:
        layers = DynamicCache(config=config).layers
        unsupported = {type(layer).__name__ for layer in layers} - {
            DynamicLayer.__name__,
            DynamicSlidingWindowLayer.__name__,
        }
        if unsupported:
            raise ModelError(
                f"model: completions cannot be generated with cache layers of type {', '.join(sorted(unsupported))}; "
                "only models with attention layers are supported"
            )
        if layers:
            self.cache = Cache(layers=[GrowingLayer() for _ in layers])
        else:
            self.cache = Cache(layer_class_to_replicate=GrowingLayer)

    @property
    def length(self) -> int:
        """Columns, padding included."""
        return self.cache.get_seq_length()

    @property
    def layers(self) -> list[GrowingLayer]:
        """The layers that hold something, in the model's order."""
        return [layer for layer in self.cache.layers if layer.is_initialized]

    def select(self, rows: Tensor, drop_columns: int = 0) -> None:
        """Keeps `rows` in that order and may repeat them; drops columns that are padding in all of them."""
        for layer in self.layers:
            layer.select(rows, drop_columns)

    def append_rows(self, other: RowCache) -> None:
        """Adds the rows of `other`."""
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            layer.append_rows(other_layer)


def left_padding_mask(starts: Tensor, length: int) -> Tensor:
    """Attention mask [B, length] (int64) of rows whose first real column is `starts` [B]."""
    return (torch.arange(length, device=starts.device) >= starts[:, None]).long()
