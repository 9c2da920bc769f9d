"""The stages of a plan on a GPU, in PyTorch, with an ensemble of teachers in between.

What two CPU cores do in a working day takes a GPU eight minutes, and so it can do what they cannot:
train several models apart from the base weights on, and have one of them learn from all (Hinton et
al., "Distilling the Knowledge in a Neural Network", 2015). The network is that of `encoder.py` and
`decoder.py`, weight by weight, under the names that a model folder gives them; those two stay what
is exported and served.

Weights are kept in float32 and multiplied in bfloat16. A whole step of training is captured as one
CUDA graph, since a decoder of 20 words is some thousand small kernels, whose starting would take
longer than their work.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from captioner.tokenizer import Tokenizer
from captioner.training.plan import Plan, Stage, TrainingError
from captioner.training.rewards import Scorers

Weights = Mapping[str, Tensor]
_SPECIALS = [Tokenizer.PAD, Tokenizer.START, Tokenizer.UNK]


# The network.


def encode(w: Weights, pictures: Tensor, last_pooling: str) -> Tensor:
    """Pictures (photos, 3, size, size) in [-1, 1] -> grid (photos, positions, channels)."""
    count = 0

    def conv(x: Tensor, padding: str = "same", stride: int = 1) -> Tensor:
        nonlocal count
        kernel, bias = w[f"conv{count:02d}/kernel"], w[f"conv{count:02d}/bias"]
        count += 1
        rows, columns = kernel.shape[2:]
        around = (rows // 2, columns // 2) if padding == "same" else 0
        return F.relu_(F.conv2d(x, kernel, bias, stride, around))

    def average(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    x = conv(conv(conv(pictures, "valid", 2), "valid"))
    x = F.max_pool2d(x, 3, 2)
    x = F.max_pool2d(conv(conv(x, "valid"), "valid"), 3, 2)
    for _ in range(3):  # mixed0 .. mixed2
        parts = [conv(x), conv(conv(x)), conv(conv(conv(x))), conv(average(x))]
        x = torch.cat(parts, 1)
    parts = [conv(x, "valid", 2), conv(conv(conv(x)), "valid", 2), F.max_pool2d(x, 3, 2)]
    x = torch.cat(parts, 1)
    for _ in range(4):  # mixed4 .. mixed7
        parts = [conv(x), conv(conv(conv(x))), conv(conv(conv(conv(conv(x))))), conv(average(x))]
        x = torch.cat(parts, 1)
    parts = [conv(conv(x), "valid", 2), conv(conv(conv(conv(x))), "valid", 2)]
    x = torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
    for pooling in ("average", last_pooling):  # mixed9, mixed10
        one, three = conv(x), conv(x)
        three = torch.cat([conv(three), conv(three)], 1)
        double = conv(conv(x))
        double = torch.cat([conv(double), conv(double)], 1)
        pooled = average(x) if pooling == "average" else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([one, three, double, conv(pooled)], 1)
    return x.flatten(2).transpose(1, 2)


class Prepared(NamedTuple):
    """What one photo costs once; see `decoder.Prepared`."""

    keys: Tensor  # (photos, heads, positions, units / heads)
    values: Tensor
    whole: Tensor  # (photos, 1, 4 * units)
    state: Tensor


@dataclass(frozen=True)
class Dropout:
    """Shares that are dropped; 0 outside training."""

    word: float = 0.0
    grid: float = 0.0


class Decoder:
    """`decoder.Decoder` over weights of those names."""

    def __init__(self, w: Weights, heads: int, dropout: Dropout | None = None) -> None:
        self.w = {name.removeprefix("decoder/"): v for name, v in w.items()}
        self.heads, self.dropout = heads, dropout or Dropout()

    def _dense(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.w[f"{name}/kernel"]
        bias = self.w.get(f"{name}/bias")
        return y if bias is None else y + bias

    def prepare(self, grid: Tensor) -> Prepared:
        """grid (photos, positions, channels) -> what `step` needs of it."""
        w = self.w
        gamma, beta = w["grid_norm/gamma"].float(), w["grid_norm/beta"].float()
        x = F.layer_norm(grid.float(), grid.shape[-1:], gamma, beta, 1e-3).to(grid.dtype)
        x = F.dropout(F.relu(self._dense("grid_in", x)), self.dropout.grid)
        whole = x.mean(1, keepdim=True)
        split = (*x.shape[:2], self.heads, -1)
        keys = self._dense("key", x).view(split).transpose(1, 2)
        values = self._dense("value", x).view(split).transpose(1, 2)
        state = torch.tanh(self._dense("state_in", whole))
        return Prepared(keys, values, self._dense("gates1_whole", whole), state)

    def read_words(self, words: Tensor) -> Tensor:
        """words (photos, captions, ...) -> their part of the gates (..., 4 * units)."""
        table = self.w["embedding/embeddings"]
        own = table.index_select(0, words.flatten()).view(*words.shape, -1)
        own = own.to(self.w["gates1_word/kernel"].dtype)
        return self._dense("gates1_word", F.dropout(own, self.dropout.word))

    def step(
        self, gates: Tensor, state: tuple[Tensor, ...], prepared: Prepared
    ) -> tuple[Tensor, ...]:
        """One word on: (photos, captions, 4 * units) and h1, c1, h2, c2 -> the new four."""
        h1, c1, h2, c2 = state
        gates = gates + prepared.whole + self._dense("gates1_state", torch.cat([h1, h2], -1))
        h1, c1 = _lstm(gates, c1)
        photos, captions, units = h1.shape
        query = self._dense("query", h1).view(photos, captions, self.heads, -1).transpose(1, 2)
        seen = F.scaled_dot_product_attention(query, prepared.keys, prepared.values)
        seen = seen.transpose(1, 2).reshape(photos, captions, units)
        content, gate = self._dense("answer", torch.cat([seen, h1], -1)).chunk(2, -1)
        answer = content * torch.sigmoid(gate)
        h2, c2 = _lstm(self._dense("gates2", torch.cat([answer, h1, h2], -1)), c2)
        return h1, c1, h2, c2

    def predict(self, hidden: Tensor) -> Tensor:
        """hidden (..., units) -> logits (..., vocabulary) float32."""
        hidden = self._dense("out", F.dropout(hidden, self.dropout.word))
        table = self.w["embedding/embeddings"].to(hidden.dtype)
        return (hidden @ table.t()).float() + self.w["output_bias"].float()

    def begin(self, prepared: Prepared, captions: int) -> tuple[Tensor, ...]:
        return tuple(p.repeat(1, captions, 1) for p in prepared.state.chunk(4, -1))

    def logits(self, grid: Tensor, words: Tensor) -> Tensor:
        """Teacher forcing: words (photos, captions, time) -> (photos, captions, time, words)."""
        prepared = self.prepare(grid)
        gates, state = self.read_words(words), self.begin(prepared, words.shape[1])
        hidden = []
        for moment in range(words.shape[2]):
            state = self.step(gates[:, :, moment], state, prepared)
            hidden.append(state[2])
        return self.predict(torch.stack(hidden, 2))

    def generate(self, grid: Tensor, captions: int, max_words: int, sample: bool) -> Tensor:
        """Likeliest or drawn words (photos, captions, max_words), padded after the end."""
        prepared = self.prepare(grid)
        state = self.begin(prepared, captions)
        word = torch.full((len(grid), captions), Tokenizer.START, device=grid.device)
        done = torch.zeros_like(word, dtype=torch.bool)
        words = []
        for _ in range(max_words):
            state = self.step(self.read_words(word), state, prepared)
            logits = _without_specials(self.predict(state[2]))
            if sample:
                logits = logits - torch.empty_like(logits).exponential_().clamp_(1e-20).log_()
            word = logits.argmax(-1).masked_fill(done, Tokenizer.PAD)
            done = done | (word == Tokenizer.END)
            words.append(word)
        return torch.stack(words, -1)


def _lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _without_specials(logits: Tensor) -> Tensor:
    barred = torch.zeros(logits.shape[-1], device=logits.device)
    for special in _SPECIALS:
        barred[special].fill_(-1e9)
    return logits + barred


# Weights.


def to_torch(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Arrays as a model folder has them -> float32; kernels of convolutions as PyTorch has them."""
    weights = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.asarray(array, np.float32)).to(device)
        if tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        weights[name] = tensor
    return weights


def to_numpy(weights: Weights) -> dict[str, np.ndarray]:
    """The other way round."""
    return {
        name: (w.detach().permute(2, 3, 1, 0) if w.ndim == 4 else w.detach()).cpu().numpy()
        for name, w in weights.items()
    }


def fresh_decoder(
    vocabulary_size: int, channels: int, units: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Weights of `decoder.Decoder` at random, by its initializers."""
    sizes = {
        "grid_in": (channels, units), "key": (units, units), "value": (units, units),
        "state_in": (units, 4 * units), "gates1_word": (units, 4 * units),
        "gates1_whole": (units, 4 * units), "gates1_state": (2 * units, 4 * units),
        "query": (units, units), "answer": (2 * units, 2 * units),
        "gates2": (3 * units, 4 * units), "out": (units, units),
    }  # fmt: skip
    arrays = {
        "output_bias": np.zeros(vocabulary_size),
        "embedding/embeddings": rng.normal(0, 0.05, (vocabulary_size, units)),
        "grid_norm/gamma": np.ones(channels), "grid_norm/beta": np.zeros(channels),
    }  # fmt: skip
    for name, (before, after) in sizes.items():
        most = math.sqrt(6 / (before + after))  # Glorot and Bengio 2010
        arrays[f"{name}/kernel"] = rng.uniform(-most, most, (before, after))
        if name not in ("key", "gates1_whole", "gates1_state", "query"):
            arrays[f"{name}/bias"] = np.zeros(after)
    for name in ("gates1_word", "gates2"):
        arrays[f"{name}/bias"][units : 2 * units] = 1  # gates start remembering
    return {f"decoder/{name}": a.astype(np.float32) for name, a in arrays.items()}


# Photos.


def augmented(photos: Tensor, size: int, crop: float, light: float, quality: float) -> Tensor:
    """uint8 photos (photos, 3, side, side) -> random views (photos, 3, size, size) in [-1, 1].

    As `pictures.Photos` does it, but that a photo of another sharpness does not go through JPEG.
    """
    count, device = len(photos), photos.device
    x = photos.float() / 127.5 - 1
    chance = torch.rand(count, 10, device=device)
    if quality:
        soft = F.conv2d(
            F.pad(x, (3, 3, 3, 3), "replicate"), _gaussian(device).repeat(3, 1, 1, 1), groups=3
        )
        sharper = (1.5 * chance[:, 7] - 0.5) * (chance[:, 6] < quality)
        x = (x + sharper[:, None, None, None] * (x - soft)).clamp(-1, 1)
    share = crop + (1 - crop) * chance[:, 0:2]  # of the height, of the width
    middle = (1 - share) * (2 * chance[:, 2:4] - 1)
    flip = 1 - 2 * (chance[:, 4] < 0.5).float()
    zero = torch.zeros_like(flip)
    across = torch.stack([share[:, 1] * flip, zero, middle[:, 1]], -1)
    down = torch.stack([zero, share[:, 0], middle[:, 0]], -1)
    x = _resampled(x, torch.stack([across, down], 1), size)
    gain, shift = (1 + light * (2 * chance[:, c, None, None, None] - 1) for c in (5, 8))
    return (x * gain + (shift - 1)).clamp(-1, 1)


def plain(photos: Tensor, size: int) -> Tensor:
    """uint8 photos -> (photos, 3, size, size) in [-1, 1], as `picture.encoder_input` does it."""
    x = photos.float() / 127.5 - 1
    whole = torch.tensor([[1.0, 0, 0], [0, 1, 0]], device=x.device)
    return _resampled(x, whole.expand(len(x), 2, 3), size)


def _resampled(x: Tensor, affine: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(affine, [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def _gaussian(device: torch.device) -> Tensor:
    line = torch.exp(-0.5 * torch.arange(-3, 4, device=device) ** 2.0)
    plane = line[:, None] * line[None]
    return (plane / plane.sum())[None, None]


# Training.


@dataclass(frozen=True)
class Photos:
    """What is trained on: all photos on the GPU, and the captions of those for training.

    Attributes:
        pixels: (photos, 3, side, side) uint8, the ones for training first.
        given, wanted, weight: (training, captions, time), as `train.word_arrays` makes them.
        training: how many photos are for training.
    """

    pixels: Tensor
    given: Tensor
    wanted: Tensor
    weight: Tensor
    training: int


@dataclass(frozen=True)
class Shape:
    """Sizes that the weights do not tell."""

    heads: int = 8
    max_words: int = 20
    input_size: int = 299
    last_pooling: str = "max"


class Model:
    """Weights that learn in float32, and their moving average."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        self.shape = shape
        self.masters = {name: w.detach().clone() for name, w in weights.items()}
        self.average = {name: w.detach().clone() for name, w in weights.items()}

    def low(self, of: Weights | None = None) -> dict[str, Tensor]:
        """All weights, rounded to bfloat16; gradients go through.

        The table of words is not: the gradient of a frequent word is a sum of thousands.
        """
        return {
            name: w if name.endswith("embeddings") else w.to(torch.bfloat16)
            for name, w in (of or self.masters).items()
        }

    def learn_only(self, names: Sequence[str]) -> None:
        """Only those weights get gradients from now on."""
        for name, w in self.masters.items():
            w.requires_grad_(name in names)
            w.grad = None

    def settle(self) -> None:
        """The moving average becomes the weights."""
        with torch.no_grad():
            for name, w in self.masters.items():
                w.copy_(self.average[name])

    @torch.no_grad()
    def take(self, weights: Weights) -> None:
        """Those weights become its own."""
        for name, w in weights.items():
            self.masters[name].copy_(w)
            self.average[name].copy_(w)

    def sharpen(self, temperature: float) -> None:
        """Divides all logits by it from now on."""
        with torch.no_grad():
            for weights in (self.masters, self.average):
                for name in ("out/kernel", "out/bias", "output_bias"):
                    weights[f"decoder/{name}"].div_(temperature)

    @torch.no_grad()
    def greedy(self, pixels: Tensor, batch: int = 200) -> np.ndarray:
        """Greedy captions of the moving average, (photos, max_words)."""
        w, words = self.low(self.average), []
        for start in range(0, len(pixels), batch):
            own = plain(pixels[start : start + batch], self.shape.input_size)
            grid = encode(w, _as_input(own), self.shape.last_pooling)
            decoder = Decoder(w, self.shape.heads)
            words.append(decoder.generate(grid, 1, self.shape.max_words, sample=False)[:, 0])
        return torch.cat(words).cpu().numpy()


def _as_input(pictures: Tensor) -> Tensor:
    return pictures.to(torch.bfloat16, memory_format=torch.channels_last)


class _Optimizer:
    """Adam with a clipped gradient, a rate a group, and a moving average of the weights."""

    def __init__(self, model: Model, names: Sequence[str], scale: float, average: float) -> None:
        self.own = [model.masters[name] for name in names]
        self.averages = [model.average[name] for name in names]
        device = self.own[0].device
        encoder = [w for name, w in zip(names, self.own, strict=True) if name.startswith("conv")]
        decoder = [
            w for name, w in zip(names, self.own, strict=True) if not name.startswith("conv")
        ]
        self.rates = [torch.zeros((), device=device), torch.zeros((), device=device)]
        self.scales = (1.0, scale)
        self.momentum = average
        groups = [
            {"params": own, "lr": rate}
            for own, rate in zip((decoder, encoder), self.rates, strict=True)
            if own
        ]
        on_gpu = device.type == "cuda"
        self.adam = torch.optim.Adam(groups, eps=1e-7, fused=on_gpu, capturable=on_gpu)

    def set_rate(self, rate: float) -> None:
        for own, scale in zip(self.rates, self.scales, strict=True):
            own.fill_(rate * scale)

    @torch.no_grad()
    def step(self, clip: float) -> None:
        gradients = [w.grad for w in self.own]
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (clip / norm.clamp(min=clip)))
        self.adam.step()
        torch._foreach_lerp_(self.averages, self.own, 1 - self.momentum)


class _Captured:
    """A function without arguments, as a CUDA graph after a few ordinary calls of it."""

    def __init__(self, function: Callable[[], None], capture: bool) -> None:
        self._function = function
        self._calls = 0
        self._graph: Any = None
        # PyTorch wants what is captured to have run on another stream before.
        self._side = torch.cuda.Stream() if capture else None

    def __call__(self) -> None:
        if self._side is None:
            self._function()
        elif self._calls < 3:
            self._calls += 1
            self._side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._side):
                self._function()
            torch.cuda.current_stream().wait_stream(self._side)
        else:
            if self._graph is None:
                torch.cuda.synchronize()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._function()
            self._graph.replay()


def run_stage(
    stage: Stage, model: Model, photos: Photos, scorers: Scorers, teachers: Sequence[Weights] = ()
) -> list[dict[str, Any]]:
    """One stage on `model`, which ends with the moving average of the best epoch or of the last.

    Args:
        teachers: bfloat16 weights of trained models, for a distillation: it learns from the mean of
            their probabilities, on the same view of a photo, and by a fifth from the captions.

    Returns:
        A row an epoch, the first of them, 0, of the model as it was.
    """
    shape, device = model.shape, photos.pixels.device
    rewarded, whole = stage.objective == "self_critical", stage.learns == "all"
    names = [
        name for name in model.masters
        if not name.startswith("conv") or (whole and int(name[4:6]) >= stage.frozen)
    ]  # fmt: skip
    model.sharpen(stage.temperature)
    model.learn_only(names)
    optimizer = _Optimizer(model, names, stage.encoder_scale, stage.average)
    dropout = Dropout(stage.dropout, stage.dropout / 2)
    batch = min(stage.photos_a_step, photos.training)
    # What the captured graphs read and write always lies at the same place.
    indices = torch.zeros(batch, dtype=torch.long, device=device)
    size = (batch, 3, shape.input_size, shape.input_size)
    pictures = _as_input(torch.zeros(size, device=device))
    words = torch.zeros((batch, stage.samples, shape.max_words), dtype=torch.long, device=device)
    advantage = torch.zeros((batch, stage.samples), device=device)
    loss_sum = torch.zeros((), device=device)
    grids: list[Tensor] = []

    def look() -> None:
        own = photos.pixels[indices]
        pictures.copy_(augmented(own, shape.input_size, stage.crop, stage.light, stage.quality))

    @torch.no_grad()
    def draw() -> None:
        look()
        w = model.low()
        grid = encode(w, pictures, shape.last_pooling)
        if not grids:
            grids.append(torch.zeros_like(grid))
        grids[0].copy_(grid)
        decoder = Decoder(w, shape.heads)
        words.copy_(decoder.generate(grid, stage.samples, shape.max_words, sample=True))

    def learn() -> None:
        for own in optimizer.own:
            own.grad = None
        w = model.low()
        if rewarded:
            start = torch.full_like(words[..., :1], Tokenizer.START)
            given, wanted = torch.cat([start, words[..., :-1]], -1), words
            weight = (words != Tokenizer.PAD) * advantage[..., None]
        else:
            look()
            given, wanted = photos.given[indices], photos.wanted[indices]
            weight = photos.weight[indices]
        stored = rewarded and not whole
        grid = grids[0] if stored else encode(w, pictures, shape.last_pooling)
        logits = Decoder(w, shape.heads, dropout).logits(grid, given)
        logs = (_without_specials(logits) if rewarded else logits).log_softmax(-1)
        nll = -logs.gather(-1, wanted[..., None])[..., 0]
        if teachers:
            soft = torch.zeros_like(logs)
            with torch.no_grad():
                for t in teachers:
                    seen = encode(t, pictures, shape.last_pooling)
                    soft += Decoder(t, shape.heads).logits(seen, given).softmax(-1)
            nll = 0.2 * nll - 0.8 * (soft / len(teachers) * logs).sum(-1)
        elif stage.label_smoothing:
            nll = (1 - stage.label_smoothing) * nll - stage.label_smoothing * logs.mean(-1)
        loss = (nll * weight).sum() / (weight != 0).sum().clamp(min=1)
        loss.backward()
        optimizer.step(stage.clip)
        loss_sum.add_(loss.detach())

    def scored() -> float:
        return round(scorers.dev(model.greedy(photos.pixels[photos.training :])), 2)

    on_gpu = device.type == "cuda"
    drawing, learning = _Captured(draw, on_gpu), _Captured(learn, on_gpu)
    best = {name: w.clone() for name, w in model.average.items()}
    history: list[dict[str, Any]] = [{"epoch": 0, "dev_cider": scored()}]
    steps = photos.training // batch
    for epoch in range(stage.epochs):
        began, rewards = time.time(), []
        order = torch.randperm(photos.training, device=device)
        loss_sum.zero_()
        for number in range(steps):
            step = epoch * steps + number
            cosine = 1 + math.cos(math.pi * step / (steps * stage.epochs))
            warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
            optimizer.set_rate(stage.learning_rate * (0.02 + 0.49 * cosine) * warm)
            indices.copy_(order[number * batch : (number + 1) * batch])
            if rewarded:
                drawing()
                scores = scorers.rewards(indices.cpu().numpy(), words.cpu().numpy())
                others = (scores.sum(1, keepdims=True) - scores) / (stage.samples - 1)
                advantage.copy_(torch.from_numpy(scores - others))
                rewards.append(float(scores.mean()))
            learning()
        row = {"epoch": epoch + 1, "loss": round(float(loss_sum) / steps, 4)}
        if rewards:
            row["reward"] = round(float(np.mean(rewards)), 4)
        row["dev_cider"] = scored()
        row["seconds"] = round(time.time() - began)
        if stage.keep_last or row["dev_cider"] > max(r["dev_cider"] for r in history):
            for name, w in model.average.items():
                best[name].copy_(w)
        history.append(row)
        print(stage.name, row, flush=True)
    for name, w in best.items():
        model.average[name].copy_(w)
    model.settle()
    model.learn_only([])
    return history


def check(plan: Plan) -> None:
    """Whether a plan's stages run here.

    Raises:
        TrainingError: one of them does not.
    """
    if plan.cut != "mixed10":
        raise TrainingError("--gpu trains the whole network only, cut at mixed10.")
    teachers = False
    for stage in plan.stages:
        if stage.learns == "top" or stage.served:
            raise TrainingError(
                f'Stage {stage.name!r} learns on stored grids ("top", "served"), which only '
                "training on the CPU does; leave out --gpu, or that stage."
            )
        if stage.bleu or stage.unigram:
            raise TrainingError(
                f"Stage {stage.name!r} rewards more than CIDEr-D, which only training on the CPU "
                'does; leave out --gpu, or "bleu" and "unigram".'
            )
        if stage.objective == "distillation" and not teachers:
            raise TrainingError(
                f'Stage {stage.name!r} is a distillation, and no stage before it has "teachers".'
            )
        teachers = teachers or stage.teachers > 1


def run_plan(
    plan: Plan,
    encoder: Mapping[str, np.ndarray],
    decoder: Mapping[str, np.ndarray] | None,
    last_pooling: str,
    pixels: np.ndarray,
    words: Sequence[np.ndarray],
    references: Sequence[Sequence[tuple[int, ...]]],
    vocabulary_size: int,
    channels: int,
    work: Path,
) -> tuple[dict[str, np.ndarray], dict[str, list[dict[str, Any]]]]:
    """All stages of a plan that `check` lets through; one done before is read from the work folder.

    On a machine without a GPU it runs on the CPU, slowly.

    Args:
        encoder: weights to start from, by the names of a model folder.
        decoder: likewise, or None for fresh ones.
        last_pooling: of the encoder's last block, "max" or "average".
        pixels: (photos, 3, side, side) uint8, those for training first.
        words: what goes in, what has to come out, its weight, each (training, captions, time).
        references: for each photo, its captions as ids.
        channels: of the encoder's grid.

    Returns:
        The weights, and the rows of each stage by its name.
    """
    shape = Shape(plan.heads, plan.max_words, plan.input_size, last_pooling)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    training = len(words[0])
    given, wanted = (torch.from_numpy(a).long().to(device) for a in words[:2])
    weight = torch.from_numpy(words[2]).float().to(device)
    photos = Photos(torch.from_numpy(pixels).to(device), given, wanted, weight, training)

    def begin(number: int) -> Model:
        seed = plan.seed * 1000 + number
        torch.manual_seed(seed)
        own = decoder or fresh_decoder(
            vocabulary_size, channels, plan.units, np.random.default_rng(seed)
        )
        return Model(to_torch({**encoder, **own}, device), shape)

    history: dict[str, list[dict[str, Any]]] = {}
    with Scorers(references[:training], references[training:]) as scorers:

        def run(name: str, stage: Stage, model: Model, teachers: Sequence[Weights] = ()) -> None:
            done = work / f"gpu-{name}.npz"
            if done.exists():
                with np.load(done) as file:
                    history[name] = json.loads(str(file["history"]))
                    kept = {key: file[key] for key in file.files if key != "history"}
                model.take(to_torch(kept, device))
                return
            history[name] = run_stage(stage, model, photos, scorers, teachers)
            temporary = done.with_suffix(".tmp.npz")
            arrays: dict[str, Any] = {
                **to_numpy(model.masters),
                "history": json.dumps(history[name]),
            }
            np.savez(temporary, **arrays)
            temporary.replace(done)

        model, teachers = begin(0), list[Weights]()
        for stage in plan.stages:
            if stage.teachers > 1:
                models = [model, *(begin(number) for number in range(1, stage.teachers))]
                for number, own in enumerate(models, 1):
                    run(f"{stage.name} {number}", stage, own)
                teachers = [own.low() for own in models]
            else:
                run(stage.name, stage, model, teachers if stage.objective == "distillation" else ())
    return to_numpy(model.masters), history
