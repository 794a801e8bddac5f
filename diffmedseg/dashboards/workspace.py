"""The W&B workspace that arranges what runs log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

_CURVES = {
    "Sampled Dice (validation)": "val/dice",
    "Training loss": "train/loss",
    "GED (validation)": "val/ged",
    "Diversity of samples (validation)": "val/diversity",
    "Learning rate": "train/learning_rate",
    "Learning rate of the encoder": "train/learning_rate/encoder",
    "Learning rate of all but the encoder": "train/learning_rate/network",
    "Gradient norm": "train/gradient_norm",
    "Images per second": "train/images_per_second",
}
_PICTURES = {"Validation": "val/panels", "Test": "test/panels"}
_SCORES = {
    "Dice": "test/dice",
    "GED, unbiased (lower is better)": "test/ged_unbiased",
    "HD95 in mm, of volumes (lower is better)": "test/hd95",
    "HD95 in pixels, of pictures (lower is better)": "test/hd95_pixels",
    "Seconds per case": "test/seconds",
}
_TRUST = {"Reliability": "test/reliability", "Risk and coverage": "test/risk_coverage"}


def build_workspace(entity: str, project: str, name: str = "diffmedseg", regions: Sequence[str] = ()) -> "ws.Workspace":
    """Build a workspace of curves, pictures, scores, the table of cases and plots of calibration; send nothing.

    Args:
        entity: User or team that owns the project.
        project: The project.
        name: Name of the workspace.
        regions: Names of several regions; each has separate scores and plots. Empty for one region.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def of_regions(key: str) -> list[str]:
        return [key.replace("test/", f"test/{region}/") for region in regions] or [key]

    pictures = [wr.MediaBrowser(title=title, media_keys=[key], num_columns=2) for title, key in _PICTURES.items()]
    curves = [wr.LinePlot(title=title, x="trainer/global_step", y=[key]) for title, key in _CURVES.items()]
    scores = [wr.BarPlot(title=title, metrics=of_regions(key)) for title, key in _SCORES.items()]
    trust = [wr.MediaBrowser(title=title, media_keys=of_regions(key)) for title, key in _TRUST.items()]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Training", panels=curves, is_open=True),
            ws.Section(name="Pictures", panels=pictures, is_open=True),
            ws.Section(name="Test scores", panels=scores, is_open=True),
            ws.Section(name="Cases", panels=[wr.WeavePanelSummaryTable(table_name="test/cases")], is_open=True),
            ws.Section(name="Trust", panels=trust, is_open=True),
            ws.Section(name="What differs between runs", panels=[wr.RunComparer(diff_only="split")]),
        ],
    )


def workspace_json(workspace: "ws.Workspace") -> str:
    """Return the workspace that would be sent, as JSON."""
    spec = workspace._to_model().spec  # its public methods all talk to the server
    return str(spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))
