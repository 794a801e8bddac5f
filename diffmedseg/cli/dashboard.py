"""``diffmedseg dashboard``: build the W&B workspace for logged runs."""

import os
import sys
from pathlib import Path

from diffmedseg.atomic import write_alone
from diffmedseg.cli.parsing import Parser
from diffmedseg.dashboards.logger import logged_in
from diffmedseg.dashboards.workspace import build_workspace, workspace_json


def main(args: list[str]) -> None:
    """Run ``diffmedseg dashboard``."""
    parser = Parser(
        "diffmedseg dashboard",
        "Build the W&B workspace that arranges a project's curves, pictures, scores and tables. It is "
        "saved as a new view of the project, and its address printed; with --out it is written to a file instead.",
    )
    entity, project = os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT") or "diffmedseg"
    parser.add_argument("--entity", default=entity, help="User or team of the project. Default: $WANDB_ENTITY.")
    parser.add_argument("--project", default=project, help="The project. Default: $WANDB_PROJECT, else diffmedseg.")
    parser.add_argument("--name", default="diffmedseg", help="Name of the workspace. Default: diffmedseg.")
    parser.add_argument(
        "--regions", nargs="+", default=[], help="Of data with several regions: their names, such as disc cup."
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="Write the workspace to a file; takes no login.")
    options = parser.parse_args(args)
    if not options.entity:
        sys.exit("error: say which user or team the project belongs to, by --entity NAME or in WANDB_ENTITY.")
    try:
        workspace = build_workspace(options.entity, options.project, options.name, options.regions)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is missing: pip install 'diffmedseg[wandb]'")
    if options.out:
        text = workspace_json(workspace)
        write_alone(options.out, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        print(f"Wrote {options.out}")
    elif not logged_in():
        sys.exit("error: W&B has no API key here: run `wandb login` first, or write the workspace by --out FILE.json")
    else:
        print(workspace.save().url)
