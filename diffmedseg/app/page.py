"""HTML of the app: images as data inside the page, so that no file stays, and sizes as a table."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from diffmedseg.app.scene import Scene
from diffmedseg.app.views import COLOUR_MAPS, DISAGREEMENT, IMAGE, MASK, PROBABILITY, SAMPLE, Look, draw_plane
from diffmedseg.figures import COLOURS
from diffmedseg.prediction.volumes.panel import PLANES
from diffmedseg.wording import count

CSS = """
.dms-views {display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr));
  align-items: start}
.dms-views figure {margin: 0; min-width: 0}
.dms-views img {width: 100%; max-height: 70vh; object-fit: contain; background: #000; border-radius: 6px;
  display: block}
.dms-views figcaption {font-size: 13px; padding: 4px 2px; overflow-wrap: anywhere}
.dms-legend {display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; margin: 6px 0}
.dms-chip {display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; border: 1px solid #0006}
.dms-bar {display: inline-block; width: 120px; height: 10px; border-radius: 3px; margin: 0 6px; vertical-align: 0}
.dms-facts {overflow-x: auto}
.dms-facts table {border-collapse: collapse; font-size: 14px; width: 100%}
.dms-facts table, .dms-facts tr {border: none !important}
.dms-facts th, .dms-facts td {text-align: left; padding: 4px 10px 4px 0 !important; border: none !important;
  border-bottom: 1px solid #8884 !important; vertical-align: top}
@media (max-width: 640px) {
  .dms-facts tr.dms-head {display: none}
  .dms-facts tr, .dms-facts td {display: block; width: 100%}
  .dms-facts td {border: none !important; padding: 1px 0 !important}
  .dms-facts tr {border-bottom: 1px solid #8884 !important; padding: 4px 0}
  .dms-facts td[data-label]::before {content: attr(data-label) ": "; opacity: .75}
}
.dms-banner {background: #fff3cd; color: #533f03; border: 1px solid #d9b84a; border-radius: 6px; padding: 8px 12px;
  font-size: 14px}
.dms-warning, .dms-error {border-radius: 6px; padding: 8px 12px; margin: 6px 0; font-size: 14px;
  overflow-wrap: anywhere}
.dms-warning {background: #fff3cd; color: #533f03; border: 1px solid #d9b84a}
.dms-error {background: #f8d7da; color: #58151c; border: 1px solid #dd8a92}
.dms-status {font-size: 14px; padding: 4px 0; overflow-wrap: anywhere}
.dms-progress {height: 6px; background: #8884; border-radius: 3px; overflow: hidden; margin-top: 4px}
.dms-progress div {height: 100%; background: #0072b2}
.dms-command {white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; border-radius: 4px; padding: 6px 8px;
  margin: 6px 0}
.dms-title {font-weight: 600; margin: 10px 0 4px; overflow-wrap: anywhere}
#files td.download {display: none}  /* links to files that were moved into the session, and cut names */
#card table {display: block; overflow-x: auto; border: none; padding: 0}
#card th, #card td {overflow-wrap: normal; word-break: normal; hyphens: none}
"""


def banner(intended_use: str) -> str:
    """Return the banner at the top: the model's intended use, and that it is not for diagnosis."""
    text = intended_use if "not for diagnosis" in intended_use.lower() else f"{intended_use} Not for diagnosis."
    return f'<div class="dms-banner" role="note"><b>Intended use:</b> {escape(text)}</div>'


def status(text: str, share: float | None = None, failed: bool = False, command: str = "") -> str:
    """Return a message, with a progress bar if there is a share, and with a command to copy if there is one."""
    kind = "dms-error" if failed else "dms-status"
    bar = "" if share is None else f'<div class="dms-progress"><div style="width:{share:.0%}"></div></div>'
    copied = f'<pre class="dms-command">{escape(command)}</pre>' if command else ""
    return f'<div class="{kind}" role="status">{escape(text)}{bar}{copied}</div>'


def views(looks: Mapping[str, tuple[Scene, Look]], positions: Mapping[str, int]) -> str:
    """Return warnings, and the views of an image: three planes of a volume, or a picture without and with a layer.

    Args:
        looks: For each model, its scene of the image and the view's settings.
        positions: For each plane of a volume, its number from 0.
    """
    several = len(looks) > 1
    (first, look), *_ = looks.values()
    warnings = "".join(_warning(scene, f"{name}: " if several else "") for name, (scene, _) in looks.items())
    if first.is_volume:
        blocks = [
            (heading(name) if several else "") + _planes(scene, one, positions) for name, (scene, one) in looks.items()
        ]
        side = "At the left: the patient's right; in sagittal planes the front."
        return f'{warnings}{"".join(blocks)}<div class="dms-legend">{escape(side)}</div>'
    figures = [_figure(draw_plane(first, Look(layer=IMAGE)), first.name)]
    figures += [
        _figure(draw_plane(scene, one), (f"{name}: " if several else "") + _layer_caption(scene, one))
        for name, (scene, one) in looks.items()
    ]
    fitted = next((scene for scene, _ in looks.values() if scene.inner is not None), first)
    return f'{warnings}<div class="dms-views">{"".join(figures)}</div>{legend(fitted, look)}'


def _warning(scene: Scene, model: str) -> str:
    if not scene.note:
        return ""
    return f'<div class="dms-warning" role="alert">{escape(model + _capital(scene.note))}.</div>'


def _planes(scene: Scene, look: Look, positions: Mapping[str, int]) -> str:
    """Return three planes of a volume and their legend."""
    figures = []
    for plane, axis in PLANES.items():
        position = min(max(positions[plane], 0), scene.shape[axis] - 1)
        caption = f"{plane.capitalize()}, plane {position + 1} of {scene.shape[axis]}"
        figures.append(_figure(draw_plane(scene, look, plane, position), caption))
    said = f'<div class="dms-legend">{escape(_layer_caption(scene, look))}</div>'
    return f'<div class="dms-views">{"".join(figures)}</div>{said}{legend(scene, look)}'


def _layer_caption(scene: Scene, look: Look) -> str:
    region = scene.regions[look.region or 0]
    return {
        MASK: f"Mask where the probability exceeds {look.threshold:.2f}",
        SAMPLE: f"Sample {min(look.sample, len(scene.samples) - 1) + 1} of {len(scene.samples)}",
        PROBABILITY: f"Probability of {region}",
        DISAGREEMENT: f"Disagreement of the samples on {region}",
        IMAGE: "Image alone",
    }[look.layer]


def legend(scene: Scene, look: Look) -> str:
    """Return the legend of the colours."""
    if look.layer == IMAGE:
        return ""
    shown = range(len(scene.regions)) if look.region is None else [look.region]
    parts = [_chip(COLOURS[k % len(COLOURS)], scene.regions[k]) for k in shown]
    if look.contours and scene.inner is not None:
        parts.append("<span>dashed: inner (white) and outer (coloured) contour</span>")
    if look.layer in COLOUR_MAPS:
        most = "1" if look.layer == PROBABILITY else "0.5"
        colours = matplotlib.colormaps[COLOUR_MAPS[look.layer]](np.linspace(0, 1, 6))
        gradient = ", ".join(to_hex(colour) for colour in colours)
        bar = f'<span class="dms-bar" style="background:linear-gradient(90deg, {gradient})"></span>'
        parts.append(f"<span>{escape(look.layer)} 0{bar}{most}; lines: the mask's edge</span>")
    return f'<div class="dms-legend">{"".join(parts)}</div>'


def _chip(colour: str, text: str) -> str:
    return f'<span><span class="dms-chip" style="background:{colour}"></span>{escape(text)}</span>'


def facts(scene: Scene, threshold: float) -> str:
    """Return the size of each region with its interval."""
    samples = count(len(scene.samples), "sample")
    labels = [
        f"{'Volume' if scene.is_volume else 'Area'} above {threshold:.2f}",
        f"Interval at {scene.threshold:.2f}",
        f"Range of the {samples}",
    ]
    lines = ["".join(["<th>Region</th>", *(f"<th>{label}</th>" for label in labels)])]
    for k, (region, size) in enumerate(scene.sizes.items()):
        interval = "none: not calibrated" if size.interval is None else _range(size.interval, scene)
        values = _number(scene.size_at(k, threshold), scene), interval, _range(size.samples, scene)
        cells = [f'<td data-label="{label}">{value}</td>' for label, value in zip(labels, values, strict=True)]
        lines.append(f"<td>{_chip(COLOURS[k % len(COLOURS)], region)}</td>{''.join(cells)}")
    head, *rows = lines
    table = "".join([f'<tr class="dms-head">{head}</tr>', *(f"<tr>{row}</tr>" for row in rows)])
    return f'<div class="dms-facts"><table>{table}</table></div>'


def heading(title: str) -> str:
    """Return a heading, such as a model's name."""
    return f'<div class="dms-title">{escape(title)}</div>'


def compare(scenes: Sequence[Scene], thresholds: Sequence[float]) -> str:
    """Return the Dice between two masks of the same image, for each region that both models have."""
    first, second = (scene.mask_at(threshold) for scene, threshold in zip(scenes, thresholds, strict=True))
    lines = []
    for k, region in enumerate(scenes[0].regions):
        if region in scenes[1].regions and first.shape[1:] == second.shape[1:]:
            other = second[scenes[1].regions.index(region)]
            total = int(first[k].sum() + other.sum())
            dice = 1.0 if not total else 2 * int((first[k] & other).sum()) / total
            lines.append(f"Dice between the two masks of {region}: {dice:.3f}")
    text = ". ".join(lines) or "The two models have no region of the same name"
    return f'<div class="dms-status">{escape(text)}.</div>'


def _number(value: float, scene: Scene) -> str:
    """Return a size with its unit; the space between them does not break at the end of a line."""
    return f"{value:,.0f}\xa0px" if scene.unit == "px" else f"{value:,.2f}\xa0ml"


def _range(ends: tuple[float, float], scene: Scene) -> str:
    low, high = (_number(end, scene) for end in ends)
    return f"{low.split()[0]} to {high}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def _figure(image: NDArray[np.uint8], caption: str) -> str:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=92, subsampling=0)
    data = base64.b64encode(written.getvalue()).decode()
    text = escape(caption, quote=True)
    return f'<figure><img alt="{text}" src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
