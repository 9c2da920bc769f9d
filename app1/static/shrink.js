// Makes a photo smaller in the browser, for one that the server would refuse as too large.

const LONGEST_SIDES = [4000, 2800, 1800, 1000]; // pixels; far more than the model looks at

/**
 * A JPEG of the same photo, upright, within the limits; null if this browser cannot read it.
 * @param {File} file
 * @param {number} maxBytes
 * @param {number} maxPixels
 */
export async function shrink(file, maxBytes, maxPixels) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  try {
    for (const longest of LONGEST_SIDES) {
      const scale = Math.min(1, longest / Math.max(width, height), Math.sqrt(maxPixels / (width * height)));
      canvas.width = Math.max(1, Math.floor(scale * width));
      canvas.height = Math.max(1, Math.floor(scale * height));
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff"; // under transparency, which JPEG has not
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
      if (blob && blob.size <= maxBytes) {
        return new File([blob], file.name.replace(/\.[^.]*$/, "") + ".jpg", { type: "image/jpeg" });
      }
    }
  } finally {
    bitmap.close();
  }
  return null;
}
