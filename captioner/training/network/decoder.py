"""The decoder: two LSTMs with attention over the encoder's grid, one word a step, state carried.

Up-Down's order (Anderson et al., "Bottom-Up and Top-Down Attention", 2018, eqs. 1-7): an attention
LSTM reads the last word, the picture as a whole and the language LSTM's state, and asks the grid; a
language LSTM reads the answer and predicts the word. Scaled dot-product attention with several
heads (Vaswani et al. 2017, eq. 1) does the asking; a gated linear unit on the answer lets it
look away (Huang et al., "Attention on Attention", 2019, eq. 2). Input and output embeddings are
tied (Press and Wolf 2017), since 6,000 photos cannot teach two of them.

Everywhere the axes are (photos, captions of the photo, ...): five references in training, samples
in self-critical training, beams in a search. The grid is then projected once a photo, however many
captions are made of it. This file has no search and no words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers, ops


class Prepared(NamedTuple):
    """What one photo costs once: its grid as the decoder reads it."""

    keys: Any  # (photos, heads, units / heads, positions)
    values: Any  # (photos, heads, positions, units / heads)
    whole: Any  # (photos, 1, 4 * units): the mean of the grid, for the attention LSTM's gates
    state: (
        Any  # (photos, 1, 4 * units): h and c of the attention LSTM, h and c of the language LSTM
    )


class _Dense(layers.Dense):
    """A dense layer that folds all axes but the last into one, and unfolds them again.

    Keras's own computes the shapes for that while it runs. In an exported step with an open batch,
    LiteRT then has few sizes beforehand, and XNNPACK gets the step in a dozen pieces; LiteRT 2.3
    also overwrites, in up to half of all such interpreters, numbers that later pieces still need.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        return _by_rows(super().call, inputs, self.units)


def _by_rows(function: Callable[[Any], Any], x: Any, size: int) -> Any:
    """`function` of x (..., n) as (rows, n); what comes of it as (..., size)."""
    if len(x.shape) == 2:
        return function(x)
    rows = ops.reshape(x, (-1, x.shape[-1]))
    unknown = sum(side is None for side in x.shape)
    sides = ops.shape(x) if unknown > 1 else [-1 if side is None else side for side in x.shape]
    return ops.reshape(function(rows), (*sides[:-1], size))


@keras.saving.register_keras_serializable("captioner")
class Decoder(layers.Layer):
    """Predicts the next word from a grid, the last word and a state.

    Args:
        vocabulary_size: words, the four specials included.
        channels: of the encoder's grid.
        units: of each LSTM, of the embeddings and of the attention.
        heads: of the attention; divides `units`.
        dropout: of embeddings and outputs in training; that of the grid is half of it.
        concepts: how many words are recognised in the photo first (Yao et al., "Boosting Image
            Captioning with Attributes", 2017); 0 for none.
    """

    def __init__(
        self,
        vocabulary_size: int,
        channels: int,
        units: int = 512,
        heads: int = 8,
        dropout: float = 0.5,
        concepts: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "decoder", **kwargs})
        if units % heads:
            raise ValueError(f"heads ({heads}) has to divide units ({units})")
        self.vocabulary_size, self.channels = vocabulary_size, channels
        self.units, self.heads, self.dropout, self.concepts = units, heads, dropout, concepts
        dense = lambda size, name, bias=True: _Dense(size, use_bias=bias, name=name)  # noqa: E731
        self.embedding = layers.Embedding(
            vocabulary_size, units, embeddings_initializer=keras.initializers.RandomNormal(0, 0.05),
            name="embedding",
        )  # fmt: skip
        self.grid_norm = layers.LayerNormalization(name="grid_norm")
        self.grid_in = layers.Dense(units, activation="relu", name="grid_in")
        self.key, self.value = dense(units, "key", False), dense(units, "value")
        self.state_in = layers.Dense(4 * units, activation="tanh", name="state_in")
        # The gates of the attention LSTM, in three parts so that two of them leave the loop.
        self.gates1_word = dense(4 * units, "gates1_word")
        self.gates1_whole = dense(4 * units, "gates1_whole", False)
        self.gates1_state = dense(4 * units, "gates1_state", False)
        self.query = dense(units, "query", False)
        self.answer = dense(2 * units, "answer")
        self.gates2 = dense(4 * units, "gates2")
        self.out = dense(units, "out")
        if concepts:
            self.concept_logits = layers.Dense(concepts, name="concept_logits")
            self.concepts_in = layers.Dense(units, use_bias=False, name="concepts_in")
        self.drop_grid = layers.Dropout(dropout / 2)
        self.drop_word, self.drop_out = layers.Dropout(dropout), layers.Dropout(dropout)

    def build(self, input_shape: Any = None) -> None:
        units = self.units
        self.embedding.build((None, None))
        self.output_bias = self.add_weight(
            shape=(self.vocabulary_size,), initializer="zeros", name="output_bias"
        )
        for layer, size in (
            (self.grid_norm, self.channels), (self.grid_in, self.channels), (self.key, units),
            (self.value, units), (self.state_in, units), (self.gates1_word, units),
            (self.gates1_whole, units), (self.gates1_state, 2 * units), (self.query, units),
            (self.answer, 2 * units), (self.gates2, 3 * units), (self.out, units),
        ):  # fmt: skip
            layer.build((None, None, size))
        if self.concepts:
            self.concept_logits.build((None, None, self.channels))
            self.concepts_in.build((None, None, self.concepts))
        # Gates start remembering: a forget bias of one (Jozefowicz et al. 2015).
        for layer in (self.gates1_word, self.gates2):
            bias = ops.concatenate([ops.zeros(units), ops.ones(units), ops.zeros(2 * units)])
            layer.bias.assign(bias)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        own = ("vocabulary_size", "channels", "units", "heads", "dropout", "concepts")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    def recognise(self, grid: Any, training: bool = False) -> Any:
        """grid (photos, rows, columns, channels) -> logits of concepts (photos, 1, concepts)."""
        seen = ops.mean(self.grid_norm(grid), axis=(1, 2), keepdims=True)[:, 0]
        return self.concept_logits(self.drop_grid(seen, training=training))

    def prepare(self, grid: Any, training: bool = False, concepts: Any = None) -> Prepared:
        """What `step` needs of a photo.

        Args:
            grid: (photos, rows, columns, channels).
            concepts: (photos, 1, concepts) probabilities in place of those that it recognises.
        """
        rows, columns = grid.shape[1:3]
        x = ops.reshape(grid, (-1, rows * columns, self.channels))
        x = self.drop_grid(self.grid_in(self.grid_norm(x)), training=training)
        whole = ops.mean(x, axis=1, keepdims=True)  # (photos, 1, units)
        if self.concepts:
            if concepts is None:
                concepts = ops.sigmoid(ops.stop_gradient(self.recognise(grid)))
            # The root lets a word that is seen in one caption of ten count, too.
            whole = whole + self.concepts_in(self.drop_grid(ops.sqrt(concepts), training=training))
        split = (-1, rows * columns, self.heads, self.units // self.heads)
        keys = ops.transpose(ops.reshape(self.key(x), split), (0, 2, 3, 1))
        values = ops.transpose(ops.reshape(self.value(x), split), (0, 2, 1, 3))
        return Prepared(keys, values, self.gates1_whole(whole), self.state_in(whole))

    def read_words(self, words: Any, training: bool = False) -> Any:
        """words (photos, captions, ...) int -> their part of the gates (..., 4 * units)."""
        return self.gates1_word(self.drop_word(self.embedding(words), training=training))

    def step(self, word_gates: Any, state: Any, prepared: Prepared) -> tuple[Any, Any, Any]:
        """One word on.

        Args:
            word_gates: (photos, captions, 4 * units), `read_words` of the last word.
            state: (photos, captions, 4 * units).
            prepared: of the photos.

        Returns:
            hidden (photos, captions, units) for `predict`, the new state, and the attention
            weights (photos, captions, positions), the mean of the heads, which adds up to 1.
        """
        h1, c1, h2, c2 = ops.split(state, 4, axis=-1)
        gates = word_gates + prepared.whole + self.gates1_state(ops.concatenate([h1, h2], -1))
        h1, c1 = _lstm(gates, c1)
        size = self.units // self.heads
        # At most one of the two is unknown, so that an exported step has no computed shapes.
        photos, captions = (-1 if known is None else known for known in h1.shape[:2])
        query = ops.reshape(self.query(h1), (photos, captions, self.heads, size))
        query = ops.transpose(query, (0, 2, 1, 3))  # (photos, heads, captions, size)
        scores = ops.matmul(query, prepared.keys) * (size**-0.5)
        weights = ops.softmax(scores, axis=-1)  # (photos, heads, captions, positions)
        seen = ops.transpose(ops.matmul(weights, prepared.values), (0, 2, 1, 3))
        seen = ops.reshape(seen, (photos, captions, self.units))
        content, gate = ops.split(self.answer(ops.concatenate([seen, h1], -1)), 2, axis=-1)
        answer = content * ops.sigmoid(gate)
        h2, c2 = _lstm(self.gates2(ops.concatenate([answer, h1, h2], -1)), c2)
        state = ops.concatenate([h1, c1, h2, c2], -1)
        return h2, state, ops.mean(weights, axis=1)

    def predict(self, hidden: Any, training: bool = False) -> Any:
        """hidden (..., units) -> logits (..., vocabulary_size) float32."""
        hidden = self.out(self.drop_out(hidden, training=training))
        table = ops.transpose(ops.cast(self.embedding.embeddings, hidden.dtype))
        logits = _by_rows(lambda rows: ops.matmul(rows, table), hidden, self.vocabulary_size)
        return ops.cast(logits, "float32") + self.output_bias

    def sharpen(self, temperature: float) -> None:
        """Divides all logits by `temperature` from now on; below 1 likely words get likelier."""
        for variable in (self.out.kernel, self.out.bias, self.output_bias):
            variable.assign(variable / temperature)

    def call(self, grid: Any, words: Any, training: bool = False, concepts: Any = None) -> Any:
        """Teacher forcing.

        Args:
            grid: (photos, rows, columns, channels).
            words: (photos, captions, time) int, the first of them the start of the sentence.
            concepts: as in `prepare`.

        Returns:
            (photos, captions, time, vocabulary_size) float32 logits of the word after each.
        """
        prepared = self.prepare(grid, training, concepts)
        gates = self.read_words(words, training)  # (photos, captions, time, 4 * units)
        state = ops.repeat(prepared.state, words.shape[1], axis=1)
        hidden = []
        for time in range(words.shape[2]):
            h, state, _ = self.step(gates[:, :, time], state, prepared)
            hidden.append(h)
        return self.predict(ops.stack(hidden, axis=2), training)


def _lstm(gates: Any, c: Any) -> tuple[Any, Any]:
    """gates (..., 4 * units) and cell (..., units) -> new h and c."""
    i, f, g, o = ops.split(gates, 4, axis=-1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c
