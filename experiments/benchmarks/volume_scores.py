"""Score finished runs of folds.py again on whole volumes along several axes, beside predictions of nnU-Net.

- ``python experiments/benchmarks/volume_scores.py convert brats2015 /path/to/brats2015 runs/nnunet`` writes every fold
  as a raw data set of nnU-Net: Dataset500_Fold0, Dataset501_Fold1, and so on.
- ``... axes brats2015 /path/to/brats2015 runs/nnunet '["medsegdiff-lite+lite0"]'`` predicts the test case of each
  finished run along three axes. The scores get the model name ``medsegdiff-lite+lite0@axial+coronal+sagittal``.
- ``... nnunet brats2015 runs/nnunet/Dataset500_Fold0 PREDICTED`` scores the label maps that nnU-Net predicted.

All write ``cases.csv`` as a run of folds.py, so ``folds.py collect`` and ``table`` show them. docs/how-to/nnunet.md has
the commands of nnU-Net.
"""

import subprocess
import sys
import time
from pathlib import Path

from folds import FOLDS, Data
from jsonargparse import auto_cli
from rows import read_rows

from diffmedseg.data.configured import build_data
from diffmedseg.data.nnunet.description import read_description
from diffmedseg.data.nnunet.writing import write_nnunet
from diffmedseg.evaluation.mask_folders import pair_masks, score_pairs
from diffmedseg.experiments import data_config
from diffmedseg.metrics.table import write_cases

FIRST = 500  # nnU-Net's number of fold 0


def raw_folder(raw: Path, fold: int) -> Path:
    """Return the folder of a fold's raw data set."""
    return raw / f"Dataset{FIRST + fold}_Fold{fold}"


def convert(data: Data, root: Path, raw: Path) -> None:
    """Write every fold as a raw data set of nnU-Net.

    Args:
        data: The data set.
        root: Folder that contains the cases.
        raw: Folder to write to, nnU-Net's ``nnUNet_raw``.
    """
    for fold in range(FOLDS[data]):
        config = data_config(data)
        config["init_args"] |= {"root": str(root), "folds": FOLDS[data], "fold": fold}
        write_nnunet(build_data(config), raw_folder(raw, fold))


def label_values(raw: Path) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Return the value that each region draws in a label map, and all values of each region.

    Args:
        raw: Raw data set of nnU-Net that :func:`convert` wrote.
    """
    description = read_description(raw)
    return dict(description.codes), dict(description.labels)


def score(predicted: Path, raw: Path, run: Path) -> None:
    """Score label maps, and write the table of a run.

    Args:
        predicted: Folder of label maps with the values of ``raw``.
        raw: Raw data set of nnU-Net; its labelsTs are the reference.
        run: Folder of the run.
    """
    scheme = ",".join(f"{name}={'+'.join(map(str, values))}" for name, values in label_values(raw)[1].items())
    pairs = pair_masks(predicted, raw / "labelsTs", kind="labels").regions(scheme)
    (run / "version_0").mkdir(parents=True, exist_ok=True)
    write_cases([row for region in pairs for row in score_pairs(region).rows], run / "version_0" / "cases.csv")


def axes(
    data: Data,
    root: Path,
    raw: Path,
    models: list[str],
    axes: str = "axial,coronal,sagittal",
    folds: list[int] = [],  # noqa: B006
    runs: Path = Path("runs/folds"),
) -> None:
    """Predict the test cases of finished runs along several axes, and score them.

    Args:
        data: The data set. Its cases need a geometry: brats2015.
        root: Folder that contains the folders of the cases.
        raw: Folder that :func:`convert` wrote.
        models: Names of models in folds.py.
        axes: Axes, as of ``diffmedseg predict``.
        folds: Folds; all if empty.
        runs: Folder of the runs.
    """
    for fold in folds or range(FOLDS[data]):
        for model in models:
            run = runs / f"{data}.{model}.{fold}" / "version_0"
            name = f"{data}.{model}@{axes.replace(',', '+')}.{fold}"
            scored, out = runs / name, runs / "predicted" / name
            if (scored / "version_0" / "cases.csv").is_file():
                continue
            cases = dict.fromkeys(row["case"] for row in read_rows(run / "cases.csv"))
            drawn = label_values(raw_folder(raw, fold))[0]
            labels = ",".join(f"{name}={value}" for name, value in drawn.items())
            options = ["--out", str(out), "--axes", axes, "--labels", labels, "--maps", "mask", "--overwrite"]
            folders = [str(root / case) for case in cases]
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "diffmedseg", "predict", str(run), *folders, *options], check=True)
            print(f"{name}: {(time.perf_counter() - start) / len(cases):.0f} s per case", flush=True)
            score(out, raw_folder(raw, fold), scored)


def nnunet(data: Data, raw: Path, predicted: Path, name: str = "nnunet-2d", runs: Path = Path("runs/folds")) -> None:
    """Score the label maps of nnU-Net.

    Args:
        data: The data set.
        raw: The fold's raw data set of nnU-Net.
        predicted: Folder of label maps that ``nnUNetv2_predict`` wrote for imagesTs.
        name: Name of the model in the tables.
        runs: Folder of the runs.
    """
    score(predicted, raw, runs / f"{data}.{name}.{int(raw.name[len('Dataset') :][:3]) - FIRST}")


if __name__ == "__main__":
    auto_cli([convert, axes, nnunet], as_positional=True)
