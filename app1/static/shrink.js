// Makes a photo smaller in the browser, when the server would refuse it as too large.

const LONGEST_SIDES = [4000, 2800, 1800, 1000]; // pixels; the model needs far fewer

/**
 * Return an upright JPEG of the photo within the limits, or null if this browser cannot make one.
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
      const bySide = longest / Math.max(width, height);
      const scale = Math.min(1, bySide, Math.sqrt(maxPixels / (width * height)));
      canvas.width = Math.max(1, Math.floor(scale * width));
      canvas.height = Math.max(1, Math.floor(scale * height));
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff"; // behind transparent parts; a JPEG has none
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
