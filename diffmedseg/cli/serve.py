"""``diffmedseg serve``: segment pictures and volumes over HTTP."""

import sys

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


def main(args: list[str]) -> None:
    """Run ``diffmedseg serve``."""
    parser = Parser(
        "diffmedseg serve",
        "Segment pictures and volumes over HTTP. POST /segment with files of a form returns the files that `diffmedseg "
        "predict` writes. GET /health and GET /model describe the service.",
    )
    parser.add_argument("model", metavar="ENTRY|RUN", help="A zoo entry, a run's folder or a checkpoint.")
    parser.add_argument("--port", type=natural_number, default=8000, help="Port. Default: 8000.")
    add_host(parser, "There is no password: behind any other address, use a proxy that authenticates users.")
    limits = {
        "max_size": (256, "MB", "Largest body of a request"),
        "max_pixels": (100, "MILLIONS", "Largest number of pixels or voxels in a request, in millions"),
        "timeout": (120, "SECONDS", "Longest time for the upload, and for the answer; slower requests are stopped"),
        "concurrency": (8, "N", "Requests that are processed at the same time"),
        "waiting": (32, "N", "Further requests that may wait; any more get 503"),
        "batch_size": (
            1,
            "N",
            "Pictures of different requests that are segmented together. More than 1 is faster on a GPU, but answers "
            "then depend on other requests by rounding",
        ),
    }
    for name, (default, unit, text) in limits.items():
        parser.add_argument(
            f"--{name}", type=positive_integer, default=default, metavar=unit, help=f"{text}. Default: {default}."
        )
    add_device(parser)
    add_trust(parser)
    options = parser.parse_args(args)
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from diffmedseg.service.server import create_app
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is missing: pip install 'diffmedseg[serve]'")
    from diffmedseg.cli.predicting import on_device
    from diffmedseg.service.limits import Limits
    from diffmedseg.service.server import Service
    from diffmedseg.zoo.shelf import Shelf

    with report_errors():
        shelf = Shelf([options.model], options.trust, on_device(options.device), whole_zoo=False)
        name = options.model
        service = Service(
            shelf.get(name),
            name,
            shelf.card(name),
            shelf.intended_use(name),
            Limits(
                options.max_size,
                options.max_pixels,
                options.timeout,
                options.concurrency,
                options.waiting,
                options.batch_size,
            ),
        )
    print(f"Serving {name} at http://{options.host}:{options.port}. Research software: not for diagnosis.", flush=True)
    keep_inputs_private()
    uvicorn.run(
        create_app(service),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=options.timeout,
    )
