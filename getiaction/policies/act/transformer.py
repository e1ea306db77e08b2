"""The transformer of ACT: the layers of DETR, with the batch as the first dimension.

Every layer adds position embeddings to queries and keys, but not to values (Carion et al. 2020,
https://arxiv.org/abs/2005.12872). Parameters have the names and shapes of
torch.nn.MultiheadAttention's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from getiaction.policies.act.config import ACTConfig

_ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class Attention(nn.Module):
    """Multi-head attention that does not materialise the attention weights.

    Args:
        dim_model: Width D of a token.
        n_heads: Number of heads, which divides `dim_model`.
        dropout: Dropout probability of the attention weights.
    """

    def __init__(self, dim_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim_model, dim_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim_model))
        self.out_proj = nn.Linear(dim_model, dim_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from each query to the values.

        Args:
            query: Tokens that attend, (B, Q, D).
            key: Tokens that are compared with the queries, (B, K, D).
            value: Tokens that are averaged, (B, K, D).
            mask: Keys to attend to, (B, 1, 1, K) bool; None for all.

        Returns:
            The weighted values for each query, (B, Q, D).
        """
        projected = (
            functional.linear(x, weight, bias).view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value),
                self.in_proj_weight.chunk(3),
                self.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        q, k, v = projected
        dropout = self.dropout if self.training else 0.0
        gathered = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        out: Tensor = self.out_proj(gathered.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """The part that encoder and decoder layers share: two linear layers with dropout.

    Args:
        config: Configuration that determines the widths, the activation and the dropout.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        dim = config.dim_model
        self.linear1 = nn.Linear(dim, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, dim)
        self.dropout = config.dropout
        self.pre_norm = config.pre_norm
        self.activation = _ACTIVATION[config.feedforward_activation]

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout in training, without changing the shape."""
        return functional.dropout(x, self.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Transform each token, (..., D), independently of the others."""
        out: Tensor = self.linear2(self.drop(self.activation(self.linear1(x))))
        return self.drop(out)


class EncoderLayer(FeedForward):
    """Self-attention, followed by a feed-forward network.

    Args:
        config: Configuration that determines the widths, the activation and the dropout.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)

    def forward(
        self, x: Tensor, position: Tensor, mask: Tensor | None, n_out: int | None = None
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: Tokens of the sequence, (B, S, D).
            position: Position embedding that is added to queries and keys, (1, S, D).
            mask: Tokens to attend to, (B, 1, 1, S) bool; None for all.
            n_out: Number of tokens to compute, from the first one; None computes all.

        Returns:
            Tokens of the output, (B, n_out or S, D).
        """
        attended = self.norm1(x) if self.pre_norm else x
        key = attended + position
        query = key[:, :n_out]
        x = x[:, :n_out] + self.drop(self.self_attn(query, key, attended, mask))
        if self.pre_norm:
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x)
        out: Tensor = self.norm2(x + self.feed_forward(x))
        return out


class Encoder(nn.Module):
    """A stack of encoder layers.

    Args:
        config: Configuration that determines the shape of each layer.
        n_layers: Number of layers in the stack.
    """

    def __init__(self, config: ACTConfig, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(n_layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(
        self, x: Tensor, position: Tensor, mask: Tensor | None = None, n_out: int | None = None
    ) -> Tensor:
        """Apply the layers in turn, with the arguments and the result of `EncoderLayer.forward`."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, position, mask, n_out if i == last else None)
        out: Tensor = self.norm(x)
        return out


class DecoderLayer(FeedForward):
    """Self-attention, attention to the encoder's output, and a feed-forward network.

    Args:
        config: Configuration that determines the widths, the activation and the dropout.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.multihead_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)
        self.norm3 = nn.LayerNorm(config.dim_model)

    def forward(
        self, x: Tensor, memory: Tensor, memory_position: Tensor, query_position: Tensor
    ) -> Tensor:
        """Apply the layer.

        Args:
            x: Tokens of the queries, (B, S, D).
            memory: Tokens of the encoder's output, (B, M, D).
            memory_position: Position embedding of the encoder's output, (1, M, D).
            query_position: Position embedding of the queries, (1, S, D).

        Returns:
            Tokens of the output, (B, S, D).
        """
        attended = self.norm1(x) if self.pre_norm else x
        query = attended + query_position
        x = x + self.drop(self.self_attn(query, query, attended, None))
        if not self.pre_norm:
            x = self.norm1(x)
        query = (self.norm2(x) if self.pre_norm else x) + query_position
        x = x + self.drop(self.multihead_attn(query, memory + memory_position, memory, None))
        if self.pre_norm:
            return x + self.feed_forward(self.norm3(x))
        x = self.norm2(x)
        out: Tensor = self.norm3(x + self.feed_forward(x))
        return out


class Decoder(nn.Module):
    """A stack of decoder layers with a final normalisation.

    Args:
        config: Configuration that determines the number of layers and the shape of each.
    """

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_decoder_layers))
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(
        self, x: Tensor, memory: Tensor, memory_position: Tensor, query_position: Tensor
    ) -> Tensor:
        """Apply the layers in turn, with the arguments and the result of `DecoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, memory, memory_position, query_position)
        out: Tensor = self.norm(x)
        return out


def sine_position_1d(n_positions: int, dim: int) -> Tensor:
    """Compute the fixed position embedding of a sequence.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.

    Args:
        n_positions: Number of positions, which are counted from 0.
        dim: Width of the embedding, an even number.

    Returns:
        The embedding, (n_positions, dim), with sines and cosines interleaved.
    """
    return _sines(torch.arange(n_positions, dtype=torch.float64), dim).float()


def sine_position_2d(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Compute DETR's fixed position embedding of a feature map.

    Carion et al. 2020, https://arxiv.org/abs/2005.12872, appendix A.4: half of the embedding
    encodes the row and half the column, each counted from 1 and scaled to (0, 2 pi].

    Args:
        height: Number of rows of the feature map.
        width: Number of columns of the feature map.
        dim: Width of the embedding, a multiple of 4.
        device: Device to compute the embedding on.

    Returns:
        The embedding, (height * width, dim), row by row.
    """
    rows, columns = (
        _sines(torch.arange(1, n + 1, device=device) * (2 * torch.pi / (n + 1e-6)), dim // 2)
        for n in (height, width)
    )
    grid = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))
    return torch.cat(grid, dim=-1).flatten(0, 1)


def _sines(position: Tensor, dim: int) -> Tensor:
    exponent = torch.arange(0, dim, 2, dtype=position.dtype, device=position.device) / dim
    angle = position[:, None] / 10_000**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
