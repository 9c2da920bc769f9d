"""Pictures that are not photos, drawn at random: pages, screens, charts, drawings, blanks, noise.

`captioner calibrate` learns from their features which pictures a model cannot describe. A person's
pages, screens and drawings need not be collected for that.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import segno
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Draw = Callable[[np.random.Generator], Image.Image]
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_KEYWORDS = ("def", "class", "return", "import", "if", "else", "for", "while", "in", "None", "True")


def non_photo(seed: int) -> np.ndarray:
    """One picture, RGB (height, width, 3) uint8; the kinds take turns, and all else is random."""
    rng = np.random.default_rng(seed)
    picture = KINDS[seed % len(KINDS)](rng)
    if rng.random() < 0.2:  # a page that was scanned or photographed from a screen
        picture = picture.rotate(rng.uniform(-3, 3), expand=False, fillcolor=_light(rng))
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    return np.asarray(picture.convert("RGB"))


def _canvas(rng: np.random.Generator, colour: tuple[int, ...]) -> Image.Image:
    sides = rng.integers(300, 1000, 2)
    return Image.new("RGB", (int(sides[0]), int(sides[1])), colour)


def _light(rng: np.random.Generator) -> tuple[int, ...]:
    tint = rng.integers(0, 30, 3) * (rng.random() < 0.5)
    return tuple(int(255 - x) for x in tint)


def _dark(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(x) for x in rng.integers(0, 70, 3))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(x) for x in rng.integers(0, 256, 3))


def _paper(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colours of a background and of what is on it."""
    colours = _light(rng), _dark(rng)
    return colours if rng.random() < 0.75 else (colours[1], colours[0])


def _sheet(
    rng: np.random.Generator,
) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, ...], tuple[int, ...]]:
    """An empty picture, its pen, and the colours of `_paper`."""
    back, ink = _paper(rng)
    picture = _canvas(rng, back)
    return picture, ImageDraw.Draw(picture), back, ink


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _word(rng: np.random.Generator) -> str:
    weights = np.linspace(12, 0.3, len(_LETTERS))
    chosen = rng.choice(list(_LETTERS), rng.integers(1, 11), p=weights / weights.sum())
    word = "".join(chosen)
    return word.capitalize() if rng.random() < 0.12 else word


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(_word(rng) for _ in range(count))


def _lines(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    colour: tuple[int, ...],
    size: int,
) -> None:
    """Lines of words in a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    font, y = _font(size), top
    while y + size < bottom:
        if rng.random() < 0.12:
            y += size  # between paragraphs
            continue
        line = _words(rng, 25)
        fitting = int((right - left) / (0.52 * size))
        shown = line[: max(1, int(fitting * (1 if rng.random() < 0.8 else rng.uniform(0.2, 1))))]
        draw.text((left, y), shown, colour, font)
        y += int(size * 1.35)


def _page(rng: np.random.Generator) -> Image.Image:
    picture, draw, _, ink = _sheet(rng)
    width, height = picture.size
    margin, size = int(width * rng.uniform(0.03, 0.14)), int(rng.integers(9, 34))
    top = margin
    if rng.random() < 0.6:
        draw.text((margin, margin), _words(rng, 3), ink, _font(2 * size))
        top += 3 * size
    columns = int(rng.integers(1, 4))
    step = (width - margin) // columns
    for column in range(columns):
        left = margin + column * step
        _lines(rng, draw, (left, top, left + step - margin, height - margin), ink, size)
    return picture


def _code(rng: np.random.Generator) -> Image.Image:
    back = _dark(rng) if rng.random() < 0.6 else _light(rng)
    picture = _canvas(rng, back)
    draw = ImageDraw.Draw(picture)
    size = int(rng.integers(10, 26))
    is_dark = sum(back) < 380
    palette = [
        tuple(int(x) for x in rng.integers(*((110, 256) if is_dark else (0, 140)), 3))
        for _ in range(5)
    ]
    indent = 0
    for number, y in enumerate(range(size, picture.height - size, int(1.4 * size)), 1):
        indent = int(np.clip(indent + rng.integers(-1, 2), 0, 6))
        draw.text((4, y), str(number), palette[0], _font(size))
        x = 4 * size + 2 * size * indent
        for _ in range(int(rng.integers(0, 9))):
            word = (
                str(rng.choice(_KEYWORDS))
                if rng.random() < 0.3
                else _word(rng) + str(rng.choice(list("().,:=[]+")))
            )
            draw.text((x, y), word, palette[int(rng.integers(1, 5))], _font(size))
            x += int(0.6 * size * (len(word) + 1))
    return picture


def _table(rng: np.random.Generator) -> Image.Image:
    picture, draw, _, ink = _sheet(rng)
    columns, rows = (int(n) for n in rng.integers(2, 14, 2))
    wide, high = picture.width // columns, picture.height // (rows + 1)
    size = max(8, min(high // 2, 24))
    draw.rectangle((0, 0, picture.width, high), fill=_colour(rng))
    for row in range(rows + 1):
        draw.line((0, row * high, picture.width, row * high), ink)
        for column in range(columns):
            text = _word(rng) if rng.random() < 0.4 else f"{rng.normal(0, 1000):,.2f}"
            draw.text(
                (column * wide + 4, row * high + high // 4),
                text[: wide // size * 2],
                ink,
                _font(size),
            )
    for column in range(columns):
        draw.line((column * wide, 0, column * wide, picture.height), ink)
    return picture


def _chart(rng: np.random.Generator) -> Image.Image:
    picture, draw, back, ink = _sheet(rng)
    width, height = picture.size
    left, bottom, right, top = 0.12 * width, 0.88 * height, 0.96 * width, 0.1 * height
    kind, count = int(rng.integers(4)), int(rng.integers(3, 16))
    draw.text((width // 3, 4), _words(rng, 3), ink, _font(int(height * 0.04) + 6))
    if kind == 0:  # a pie
        ends = np.concatenate([[0], np.cumsum(rng.dirichlet(np.ones(count)))]) * 360
        radius = 0.38 * min(width, height)
        centre = (width / 2, height / 2)
        box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        for start, end in itertools.pairwise(ends):
            draw.pieslice(box, start, end, fill=_colour(rng), outline=back)
        return picture
    if rng.random() < 0.6:
        for y in np.linspace(top, bottom, 6):
            draw.line((left, y, right, y), fill=(200, 200, 200))
    draw.line((left, top, left, bottom, right, bottom), fill=ink, width=2)
    for x in np.linspace(left, right, 6)[:-1]:
        draw.text((x, bottom + 4), _word(rng)[:6], ink, _font(int(height * 0.025) + 6))
    for _ in range(int(rng.integers(1, 4))):
        colour = _colour(rng)
        xs = np.linspace(left, right, count if kind == 1 else 5 * count)
        walk = np.cumsum(rng.normal(size=len(xs)))
        ys = bottom - (walk - walk.min()) / (np.ptp(walk) + 1e-9) * (bottom - top) * 0.95
        if kind == 1:  # bars
            wide = (right - left) / count * 0.7
            for x, y in zip(xs, ys, strict=True):
                draw.rectangle((x, y, x + wide, bottom), fill=colour)
            break
        if kind == 2:
            draw.line(
                [*map(tuple, np.stack([xs, ys], 1))], fill=colour, width=int(rng.integers(1, 5))
            )
        else:
            for x, y in zip(rng.permutation(xs), ys, strict=True):
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
    return picture


def _screen(rng: np.random.Generator) -> Image.Image:
    """A window or a web page: bars, buttons, lists, text."""
    picture, draw, back, ink = _sheet(rng)
    width, height = picture.size
    size, accent = int(rng.integers(10, 22)), _colour(rng)
    bar = int(2.5 * size)
    draw.rectangle((0, 0, width, bar), fill=accent)
    draw.text((bar, bar // 4), _words(rng, 3), (255, 255, 255), _font(size))
    side = int(width * rng.uniform(0.15, 0.35)) if rng.random() < 0.6 else 0
    if side:
        draw.rectangle((0, bar, side, height), fill=tuple(int(0.93 * x) for x in back))
        for y in range(bar + size, height - 2 * size, int(2.2 * size)):
            draw.ellipse((size // 2, y, 3 * size // 2, y + size), fill=_colour(rng))
            draw.text((2 * size, y), _words(rng, 2)[: max(2, side // size)], ink, _font(size))
    y = bar + size
    while y < height - 4 * size:
        high = int(rng.integers(3, 12)) * size
        box = (side + size, y, width - size, min(y + high, height - size))
        if rng.random() < 0.5:
            draw.rounded_rectangle(box, radius=6, outline=(190, 190, 190), width=1)
        _lines(rng, draw, (box[0] + 6, box[1] + 6, box[2] - 6, box[3] - 2 * size), ink, size)
        if rng.random() < 0.5:
            right = box[2] - 8
            draw.rounded_rectangle(
                (right - 6 * size, box[3] - 2 * size, right, box[3] - 4), 6, accent
            )
        y += high + size
    return picture


def _diagram(rng: np.random.Generator) -> Image.Image:
    picture, draw, back, ink = _sheet(rng)
    centres = rng.uniform(0.12, 0.88, (int(rng.integers(3, 12)), 2)) * picture.size
    for a, b in itertools.pairwise(centres):
        draw.line((*a, *b), fill=ink, width=int(rng.integers(1, 4)))
    shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
    for x, y in centres:
        wide, high = rng.uniform(25, 90), rng.uniform(15, 40)
        fill = _colour(rng) if rng.random() < 0.5 else back
        shape((x - wide, y - high, x + wide, y + high), fill=fill, outline=ink, width=2)
        draw.text((x - wide * 0.8, y - 8), _word(rng), ink, _font(14))
    return picture


def _drawing(rng: np.random.Generator) -> Image.Image:
    """Lines of a pencil, or flat shapes with outlines, as of a child or of a cartoon."""
    has_colours = rng.random() < 0.6
    picture = _canvas(rng, _colour(rng) if rng.random() < 0.3 else _light(rng))
    draw = ImageDraw.Draw(picture)
    size, ink = np.array(picture.size), _dark(rng)
    pen = int(rng.integers(1, 8))
    for _ in range(int(rng.integers(4, 30))):
        centre = rng.uniform(0.05, 0.95, 2) * size
        radius = rng.uniform(0.02, 0.3) * size.min()
        fill = _colour(rng) if has_colours else None
        kind = int(rng.integers(4))
        if kind == 0:
            stretch = rng.uniform(0.4, 1.6)
            box = (*(centre - radius), centre[0] + radius * stretch, centre[1] + radius)
            draw.ellipse(box, fill=fill, outline=ink, width=pen)
        elif kind == 1:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
            corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            draw.polygon([*map(tuple, corners)], fill=fill, outline=ink, width=pen)
        elif kind == 2:
            steps = rng.normal(0, radius / 8, (int(rng.integers(8, 60)), 2)).cumsum(0).cumsum(0) / 4
            draw.line([*map(tuple, centre + steps)], fill=ink, width=pen)
        else:
            box = (*(centre - radius), *(centre + radius))
            start = rng.uniform(0, 360)
            draw.arc(box, start, start + rng.uniform(40, 300), fill=ink, width=pen)
    return picture


def _sign(rng: np.random.Generator) -> Image.Image:
    """A logo, a slide or a title: few large words, perhaps a shape behind them."""
    picture = _canvas(rng, _colour(rng))
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    if rng.random() < 0.6:
        side = 0.4 * min(width, height)
        box = (width / 2 - side, height / 2 - side, width / 2 + side, height / 2 + side)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=_colour(rng))
    for line in range(int(rng.integers(1, 5))):
        size = int(rng.uniform(0.05, 0.25) * height)
        at = (rng.uniform(0.05, 0.3) * width, height * (0.15 + 0.2 * line))
        draw.text(at, _words(rng, int(rng.integers(1, 4))), _colour(rng), _font(size))
    return picture


def _blank(rng: np.random.Generator) -> Image.Image:
    """One colour, or a gradient."""
    picture = _canvas(rng, _colour(rng) if rng.random() < 0.5 else _light(rng))
    if rng.random() < 0.5:
        other = Image.new("RGB", picture.size, _colour(rng))
        gradient = Image.linear_gradient if rng.random() < 0.6 else Image.radial_gradient
        picture = Image.composite(picture, other, gradient("L").resize(picture.size))
    return picture


def _noise(rng: np.random.Generator) -> Image.Image:
    side = int(rng.choice([8, 32, 128, 400]))
    channels = int(rng.choice([1, 3]))
    noise = rng.integers(0, 256, (side, side, channels), np.uint8)
    if rng.random() < 0.3:
        noise = (noise > rng.integers(40, 216)).astype(np.uint8) * 255
    picture = Image.fromarray(np.broadcast_to(noise, (side, side, 3)).copy())
    return picture.resize((400, 400), Image.Resampling(int(rng.choice([0, 2]))))


def _pattern(rng: np.random.Generator) -> Image.Image:
    """Stripes, a chess board, or a QR code."""
    back, ink = (_colour(rng), _colour(rng)) if rng.random() < 0.5 else _paper(rng)
    kind = int(rng.integers(3))
    if kind == 0:
        matrix = np.array([*segno.make(_words(rng, int(rng.integers(1, 8)))).matrix_iter(border=4)])
        cells = matrix.astype(bool)
    else:
        index = np.add.outer(
            np.arange(int(rng.integers(2, 24))) * (kind == 1), np.arange(int(rng.integers(2, 24)))
        )
        cells = index % 2 == 0
    picture = Image.fromarray(np.where(cells[..., None], ink, back).astype(np.uint8))
    return picture.resize(_canvas(rng, back).size if kind else (450, 450), Image.Resampling.NEAREST)


KINDS: tuple[Draw, ...] = (
    _page, _code, _table, _chart, _screen, _diagram, _drawing, _sign, _blank, _noise, _pattern,
    _page, _screen, _drawing, _chart,
)  # fmt: skip
