// Shows where the model looked while it wrote a word: a canvas over the photo darkens the rest.

const SIZE = 64; // pixels of the canvas in each direction; CSS stretches it over the photo
const DARKEST = 0.78; // opacity

/** Weights of four neighbours at offset t in [0, 1): a cubic B-spline is smooth, never negative. */
function spline(t) {
  const u = 1 - t;
  return [u * u * u, 3 * t * t * t - 6 * t * t + 4, 3 * u * u * u - 6 * u * u + 4, t * t * t].map(
    (weight) => weight / 6,
  );
}

/** Resample `values` to `length` values; each value is at the centre of its cell. */
function resample(values, length) {
  return Array.from({ length }, (_, i) => {
    const place = ((i + 0.5) * values.length) / length - 0.5;
    const first = Math.floor(place);
    return spline(place - first).reduce((sum, weight, k) => {
      const cell = Math.min(values.length - 1, Math.max(0, first - 1 + k)); // repeat the edge
      return sum + weight * values[cell];
    }, 0);
  });
}

/** Draw an attention grid (rows x columns, with sum 1) as a veil over the photo. */
export function showAttention(canvas, grid) {
  const rows = grid.map((row) => resample(row, SIZE)); // (rows of the grid, SIZE)
  const column = (x) => rows.map((row) => row[x]);
  const columns = rows[0].map((_, x) => resample(column(x), SIZE)); // [x][y]
  const most = Math.max(...columns.map((column) => Math.max(...column)));
  canvas.width = SIZE;
  canvas.height = SIZE;
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIZE, SIZE);
  for (let y = 0; y < SIZE; y += 1) {
    for (let x = 0; x < SIZE; x += 1) {
      const seen = most > 0 ? columns[x][y] / most : 1;
      const at = 4 * (y * SIZE + x);
      image.data[at] = 14;
      image.data[at + 1] = 13;
      image.data[at + 2] = 11;
      image.data[at + 3] = 255 * DARKEST * (1 - seen) ** 1.6;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.hidden = false;
}

/** Where the peak of the grid is: "at the upper left", or "all over the picture" without a peak. */
export function whereItLooked(grid) {
  const cells = grid.flat();
  const most = Math.max(...cells);
  if (most < 2 / cells.length) return "all over the picture";
  const peak = cells.indexOf(most);
  const third = (index, length) => Math.min(2, Math.floor((3 * (index + 0.5)) / length));
  const row = third(Math.floor(peak / grid[0].length), grid.length);
  const column = third(peak % grid[0].length, grid[0].length);
  if (row === 1 && column === 1) return "at the middle";
  const words = [["upper", "", "lower"][row], ["left", "", "right"][column]].filter(Boolean);
  return `at the ${words.join(" ")}${words.length === 1 ? (column === 1 ? " part" : " side") : ""}`;
}
