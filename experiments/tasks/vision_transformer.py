"""The vision transformer of the published comparison, at any size."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array


class TinyViT(nn.Module):
    """A pre-norm vision transformer with fixed 2D sine-cosine positions; 556,042 parameters by default.

    As in the published model, the class token is the last token, but the classifier reads the first one, a patch. So
    the class token acts only through attention, and the last block computes only its first token. That saves a sixth of
    the work at the default size.

    **Shapes:** images (batch, height, width, channels) in [0, 1] -> logits (batch, classes).
    """

    patch_size: int = 8
    features: int = 128
    layers: int = 4
    heads: int = 4
    dropout: float = 0.3
    classes: int = 10

    @nn.compact
    def __call__(self, images: Array, deterministic: bool) -> Array:
        patches = split_into_patches(images, self.patch_size)
        # One dense layer on each patch is the strided convolution usual here, and it stays a matrix
        # product under vmap, where a convolution becomes a slow grouped one.
        tokens = nn.Dense(self.features, name="embed_patches")(patches)
        tokens = tokens + positions(self.features, patches.shape[1]).astype(tokens.dtype)
        class_token = nn.Embed(1, self.features, name="class_token")(jnp.zeros((len(images), 1), jnp.int32))
        tokens = jnp.concatenate([tokens, class_token], axis=1)
        for layer in range(self.layers):
            wanted = tokens.shape[1] if layer < self.layers - 1 else 1
            tokens = Block(self.features, self.heads, self.dropout, deterministic)(tokens, wanted)
        return nn.Dense(self.classes, name="classify")(tokens[:, 0])


class Block(nn.Module):
    """Attention, then a two-layer perceptron of twice the width, each on normalized tokens and added.

    **Shapes:** tokens (batch, tokens, features) -> the first `wanted` of them, (batch, wanted, features).
    """

    features: int
    heads: int
    dropout: float
    deterministic: bool

    @nn.compact
    def __call__(self, tokens: Array, wanted: int) -> Array:
        attend = nn.MultiHeadDotProductAttention(
            self.heads, dropout_rate=self.dropout, deterministic=self.deterministic
        )
        mask = nn.Dropout(self.dropout, deterministic=self.deterministic)

        def drop(some: Array) -> Array:
            # The mask of a token does not depend on how many are wanted.
            return some * mask(jnp.ones((*tokens.shape[:2], some.shape[-1]), some.dtype))[:, :wanted]

        normalized = nn.LayerNorm()(tokens)
        some = tokens[:, :wanted] + attend(normalized[:, :wanted], normalized)
        hidden = nn.gelu(nn.Dense(2 * self.features)(nn.LayerNorm()(some)))
        return some + drop(nn.Dense(self.features)(drop(hidden)))


def split_into_patches(images: Array, size: int) -> Array:
    """(batch, height, width, channels) -> (batch, patches, size * size * channels), row by row."""
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // size, size, width // size, size, channels)
    return grid.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def positions(features: int, patches: int) -> Array:
    """Fixed sine-cosine codes of a square grid of patches, (patches, features): a half each for x and y."""
    side = round(patches**0.5)
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
    angles = np.arange(side)[:, None] * frequencies
    code = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    y, x = np.divmod(np.arange(patches), side)
    return jnp.asarray(np.concatenate([code[x], code[y]], axis=1), jnp.float32)
