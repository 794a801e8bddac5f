"""``diffmedseg app``: segment, view, compare and correct in a browser."""

import ipaddress
import os
import signal
import sys
from pathlib import Path

from diffmedseg.cli.parsing import (
    Parser,
    add_device,
    add_host,
    add_trust,
    keep_inputs_private,
    natural_number,
    positive_integer,
    report_errors,
)
from diffmedseg.scratch import scratch_folder

DEFAULT = "medsegdiff-lite_isic2017.cpu64"


def main(args: list[str]) -> None:
    """Run ``diffmedseg app``."""
    parser = Parser(
        "diffmedseg app",
        "Segment, look at, compare and correct pictures and volumes in a browser. Everything stays on this machine: "
        "nothing is sent elsewhere, and uploaded files are removed when the browser's tab is closed.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        default=[DEFAULT],
        metavar="ENTRY|RUN",
        help=f"Zoo entries, runs or checkpoints to offer beside the zoo's entries. Default: {DEFAULT}.",
    )
    parser.add_argument("--port", type=natural_number, default=7860, help="Port; 0 for a free one. Default: 7860.")
    add_host(parser, "There is no password: another address lets everybody who reaches it use the app.")
    parser.add_argument(
        "--max_size", type=positive_integer, default=1024, metavar="MB", help="Largest file in MB. Default: 1024."
    )
    add_device(parser)
    add_trust(parser)
    options = parser.parse_args(args)
    for number in (signal.SIGINT, signal.SIGTERM):  # both end the app and remove its files
        signal.signal(number, signal.default_int_handler)
    try:
        with report_errors(), scratch_folder("diffmedseg-app-") as root:
            os.environ["GRADIO_TEMP_DIR"] = str(root)  # read when Gradio is imported
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            _serve(options.models, options.host, options.port, options.max_size, options.device, options.trust, root)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)


def _serve(models: list[str], host: str, port: int, megabytes: int, device: str, trust: list[str], root: Path) -> None:
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is missing: pip install 'diffmedseg[app]'")
    from diffmedseg.app.handlers import Handlers
    from diffmedseg.app.layout import build, launch
    from diffmedseg.cli.predicting import on_device
    from diffmedseg.zoo.shelf import Shelf
    from diffmedseg.zoo.source import packaged_zoo

    shelf = Shelf(models, trust, on_device(device))
    sample = packaged_zoo() / "sample.png"
    blocks = build(Handlers(shelf, root, sample if sample.is_file() else None))
    address = launch(blocks, root, host, port, megabytes * 2**20, wait=False)
    print(f"Open {address} in a browser. Ctrl+C ends the app.", flush=True)
    if not _is_loopback(host):
        print("Warning: everybody who reaches this address can use the app; there is no password.", file=sys.stderr)
    keep_inputs_private()
    blocks.block_thread()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
