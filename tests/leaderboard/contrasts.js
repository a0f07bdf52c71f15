// All shown texts as [ratio of contrast with what is behind, the text], by WCAG 2.
const channels = (colour) => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
};
const luminance = (colour) => {
  const linear = channels(colour).slice(0, 3).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (channels(colour)[3] === 1) return colour;
  }
  return "white";
};
const known = new Map();
for (const element of document.querySelectorAll("body *")) {
  const has = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (!has || !element.checkVisibility() || element.closest("title")) continue;
  const style = getComputedStyle(element);
  const key = `${element instanceof SVGElement ? style.fill : style.color}|${behind(element)}`;
  if (!known.has(key)) known.set(key, element.textContent.trim().slice(0, 40));
}
return [...known].map(([key, text]) => {
  const [a, b] = key.split("|").map(luminance);
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text];
});
