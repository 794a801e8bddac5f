"""Layout of the page, and the events that call :mod:`diffmedseg.app.handlers`."""

from pathlib import Path
from typing import Any

import gradio as gr

from diffmedseg.app import page
from diffmedseg.app.drawing import ADD, REMOVE
from diffmedseg.app.handlers import NO_SECOND, Handlers
from diffmedseg.app.views import LAYERS, MASK

_MODEL = "model"  # events that run a network run one after the other
_CONTAINERS = ("row", "panel")  # can be hidden, and have no value
_SECONDS_BETWEEN_SWEEPS, _SECONDS_KEPT = 60, 900
_FONTS = ("system-ui", "sans-serif")  # of the system: the page loads nothing from the network


def theme() -> gr.themes.Base:
    """Return the page's theme. It uses the system's fonts, so that the page works without a network."""
    return gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=("ui-monospace", "monospace"))


def build(handlers: Handlers) -> gr.Blocks:
    """Build the page.

    Args:
        handlers: Handlers of its buttons and sliders.
    """
    cache = _SECONDS_BETWEEN_SWEEPS, _SECONDS_KEPT
    with gr.Blocks(title="diffmedseg", analytics_enabled=False, delete_cache=cache, fill_width=True) as blocks:
        session = gr.State(None, delete_callback=handlers.end)
        gr.Markdown("## diffmedseg: segment, look, compare, correct")
        use = gr.HTML(page.banner(handlers.shelf.intended_use(handlers.shelf.names[0])))
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                inputs = _inputs(handlers)
            with gr.Column(scale=3, min_width=320):
                views = gr.HTML(page.status("The result appears here."), elem_id="views")
                with gr.Column(visible=False) as panel:
                    looks = _look_controls() | {"panel": panel}
                    facts = gr.HTML()
                    downloads = gr.DownloadButton("Download the files that predict writes (.zip)", interactive=False)
        with gr.Accordion("Correct the mask", open=False):
            correction = _correction()
        with gr.Accordion("Model card", open=False):
            card = gr.Markdown(elem_id="card")
        _connect(handlers, session, inputs, looks, correction, {"views": views, "facts": facts, "downloads": downloads})
        _describe_model(blocks, handlers, inputs, use, card)
        blocks.load(handlers.begin, [session], [session], show_progress="hidden", api_visibility="private")
        blocks.unload(handlers.unload)
    return blocks


def _inputs(handlers: Handlers) -> dict[str, Any]:
    names = handlers.shelf.names
    files = gr.File(label="Pictures, NIfTI, DICOM or ZIP", file_count="multiple", height=150, elem_id="files")
    with gr.Row():
        folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", min_width=120)
        example = gr.Button("Take the example", size="sm", min_width=120)
    model = gr.Dropdown(names, value=names[0], label="Model", filterable=False)
    second = gr.Dropdown([NO_SECOND, *names], value=NO_SECOND, label="Compare with", filterable=False)
    with gr.Row():
        run = gr.Button("Segment", variant="primary", min_width=100)
        stop = gr.Button("Stop", min_width=100)
    status = gr.HTML(page.status("Drop files, choose a model, and press Segment."), elem_id="status")
    return {
        "files": files, "folder": folder, "example": example, "model": model, "second": second, "run": run,
        "stop": stop, "status": status,
    }  # fmt: skip


def _look_controls() -> dict[str, Any]:
    """Make the controls of the view, in the order of the handlers' arguments."""
    with gr.Row():
        image = gr.Dropdown([], label="Image", min_width=160, filterable=False)
        layer = gr.Radio(LAYERS, value=MASK, label="Show", min_width=320)
        region = gr.Dropdown([], label="Region", min_width=120, visible=False, filterable=False)
        channel = gr.Dropdown([], label="Channel", min_width=120, visible=False, filterable=False)
    with gr.Row():
        opacity = gr.Slider(0, 1, 0.4, step=0.05, label="Opacity", min_width=160)
        sample = gr.Slider(1, 2, 1, step=1, label="Sample", min_width=160)
        threshold = gr.Slider(0.01, 0.99, 0.5, step=0.01, label="Threshold", min_width=160)
        contours = gr.Checkbox(True, label="Inner and outer contour", min_width=160)
    with gr.Row(visible=False) as planes_row:
        planes = [gr.Slider(1, 2, 1, step=1, label=f"{name} plane", min_width=160) for name in
                  ("Axial", "Coronal", "Sagittal")]  # fmt: skip
    axial, coronal, sagittal = planes
    return {
        "image": image, "layer": layer, "region": region, "channel": channel, "opacity": opacity, "sample": sample,
        "threshold": threshold, "contours": contours, "axial": axial, "coronal": coronal, "sagittal": sagittal,
        "row": planes_row,
    }  # fmt: skip


def _correction() -> dict[str, Any]:
    gr.Markdown(
        "Load the mask that is shown above. Of a volume, this is the axial plane. Paint orange to add and blue to "
        "remove: the brush's palette has both. Erase wrong strokes, and keep the mask. The kept masks are a data set "
        "to fine-tune on."
    )
    with gr.Row():
        load = gr.Button("Load the mask", size="sm", min_width=120)
        keep = gr.Button("Keep the corrected mask", size="sm", min_width=120)
        pairs = gr.DownloadButton("Download the data set (.zip)", size="sm", interactive=False, min_width=120)
    said = gr.HTML(elem_id="correction")
    editor = gr.ImageEditor(
        type="numpy",
        format="png",
        image_mode="RGBA",
        sources=(),
        transforms=(),
        layers=False,
        height=520,
        canvas_size=(1024, 1024),
        brush=gr.Brush(colors=[ADD, REMOVE], default_color=ADD, color_mode="fixed", default_size=12),
        label="Mask",  # longer labels lie below the tools on a telephone
        elem_id="editor",
    )
    return {"load": load, "keep": keep, "pairs": pairs, "said": said, "editor": editor}


def _connect(
    handlers: Handlers,
    session: gr.State,
    inputs: dict[str, Any],
    looks: dict[str, Any],
    correction: dict[str, Any],
    results: dict[str, Any],
) -> None:
    """Connect events. While a slider moves, only its newest position is drawn."""
    controls = [looks[name] for name in looks if name not in _CONTAINERS]
    seen = [results["views"], results["facts"]]
    status, models = inputs["status"], [inputs["model"], inputs["second"]]
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "undocumented"}
    for event in (inputs["files"].upload, inputs["files"].delete):
        event(handlers.upload, [session, inputs["files"]], [session, status], **quick)
    inputs["files"].clear(handlers.forget, [session], [status], **quick)
    folder, example = inputs["folder"], inputs["example"]
    for taken in (
        folder.upload(handlers.upload, [session, folder], [session, status], api_visibility="private"),
        example.click(handlers.example, [session], [session, status], **quick),
    ):
        taken.then(lambda: None, None, [inputs["files"]], **quick)  # forget files that were dropped before
    waits = inputs["run"].click(
        handlers.wait, [session], [session, status, inputs["run"]], queue=False, trigger_mode="once", **quick
    )
    ran = waits.then(
        handlers.segment, [session, *models], [session, status], concurrency_id=_MODEL, concurrency_limit=1,
        show_progress="hidden", api_name="segment",
    )  # fmt: skip
    ran.then(handlers.free, None, [inputs["run"]], **quick)
    ready = ran.then(handlers.prepare, [session], [*looks.values(), results["downloads"]], **quick)
    ready.then(handlers.look, [session, *controls], seen, api_name="look", **quick)
    inputs["stop"].click(handlers.stop, [session], [status], queue=False, **quick)
    changed = looks["image"].input(handlers.change_image, [session, looks["image"]], list(looks.values()), **quick)
    changed.then(handlers.look, [session, *controls], seen, **quick)
    for name, control in looks.items():
        if name not in {"image", "sample", *_CONTAINERS}:
            control.input(handlers.look, [session, *controls], seen, trigger_mode="always_last", **quick)
    looks["sample"].input(
        handlers.look_at_sample, [session, *controls], [looks["layer"], *seen], trigger_mode="always_last", **quick
    )
    editor = correction["editor"]
    correction["load"].click(
        handlers.load_mask, [session, *controls], [editor, correction["said"]], show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    correction["keep"].click(
        handlers.keep_mask, [session, editor], [editor, correction["said"], correction["pairs"]],
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def _describe_model(
    blocks: gr.Blocks, handlers: Handlers, inputs: dict[str, Any], use: gr.HTML, card: gr.Markdown
) -> None:
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    inputs["model"].input(handlers.describe, [inputs["model"]], [use, card], **quick)
    blocks.load(handlers.describe, [inputs["model"]], [use, card], **quick)


def launch(blocks: gr.Blocks, root: Path, host: str, port: int, most_bytes: int, wait: bool = True) -> str:
    """Serve the page, and return its address.

    Args:
        blocks: The page.
        root: Folder of uploads and sessions. Only this folder is served. ``GRADIO_TEMP_DIR`` has to name it.
        host: Address to listen at.
        port: Port; 0 for a free port.
        most_bytes: Size of the largest file that can be uploaded, in bytes.
        wait: Whether to wait until the server ends.
    """
    blocks.queue(default_concurrency_limit=4, max_size=64)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        show_error=True,
        allowed_paths=[],
        blocked_paths=[str(place) for place in (Path.cwd(), Path.home()) if place not in root.parents],
        max_file_size=most_bytes,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        run_history=False,
        strict_cors=True,
        footer_links=[],
        theme=theme(),
        css=page.CSS,
        quiet=True,
        prevent_thread_lock=True,
        state_session_capacity=200,
    )
    if wait:
        blocks.block_thread()
    return str(address)
