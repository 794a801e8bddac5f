import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dark_disc import bright_segmenter, picture
from helpers.mri_files import write_brats
from PIL import Image

from diffmedseg import load_checkpoint, zoo
from diffmedseg.cli import main, predicting

ROOT = Path(__file__).parents[2]
ENTRY = "medsegdiff_synthetic.tiny"
QUICK = ["--num_samples=2", "--num_steps=1"]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        picture().save(tmp_path / "in" / f"{name}.jpg")
    return tmp_path / "in"


def test_from_a_zoo_entry_by_the_installed_command(photos, tmp_path):
    command = [
        sys.executable,
        "-m",
        "diffmedseg",
        "predict",
        ENTRY,
        str(photos),
        "--out",
        str(tmp_path / "out"),
        *QUICK,
    ]
    (photos / "c.HEIC").touch()
    result = subprocess.run([*command, "--panel"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Left out (1), because Pillow reads no files with these suffixes: c.HEIC." in result.stderr
    assert "Segmented 2. Results:" in result.stderr
    kinds = ("disagreement", "mask", "panel", "probability")
    expected = [f"{name}_{kind}.png" for name in "ab" for kind in kinds] + ["predictions.csv", "predictions.yaml"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


@pytest.mark.parametrize("what", ["run", "checkpoint"])
def test_from_a_run_or_its_checkpoint(what, run, photos, tmp_path):
    source = run if what == "run" else run / "checkpoints" / "last.ckpt"
    main(["predict", str(source), f"{photos}/*.jpg", "--out", str(tmp_path / "out"), *QUICK])
    assert (tmp_path / "out" / "b_mask.png").is_file()
    assert not load_checkpoint(source).training


def test_exits_with_1_and_says_what_failed(photos, tmp_path, capsys):
    (photos / "c.png").write_text("no picture")
    with pytest.raises(SystemExit) as caught:
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *QUICK])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert f"failed: {photos / 'c.png'}: it cannot be decoded" in said
    assert "Segmented 2, failed 1." in said
    with pytest.raises(SystemExit):
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *QUICK, "--resume"])
    assert "Segmented 0, kept 2, failed 1." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nothing", "IN", "--out=OUT"],
            r"nothing is no file, no run's folder and no entry of the zoo. There are: diffseg.* and \d+ more",
        ),
        (["medsegdif_synthetic.tiny", "IN", "--out=OUT"], rf"Did you mean {ENTRY}"),
        (["medsegdiff-lite_isic2018.gpu128", "IN", "--out=OUT"], "is a recipe without weights"),
        (
            ["IN/a.jpg", "IN", "--out=OUT"],
            r"a\.jpg cannot be loaded: it is damaged, of another version, or no model",
        ),
        (["IN", "IN", "--out=OUT"], r"is no run.s folder: it has no checkpoints/best\.ckpt"),
        ([ENTRY, "IN/x.jpg", "--out=OUT"], "There is no file or folder .*, and no picture matches it as a pattern"),
        ([ENTRY, "IN", "--out=IN"], r"holds files that are not predictions \(a\.jpg, b\.jpg\)"),
        ([ENTRY, "IN", "--out=IN/a.jpg"], r"a\.jpg is a file: name a folder"),
        ([ENTRY, "IN", "--out=/proc/nothing"], "Cannot write to /proc/nothing"),
        ([ENTRY, "IN [1]/*", "--out=OUT"], r"write \[\[\]"),
        ([str(ROOT / "zoo" / ENTRY), "IN", "--out=OUT"], f"is an entry of a zoo. Give its name, {ENTRY}"),
        (["", "IN", "--out=OUT"], "is no file, no run's folder and no entry"),
        ([ENTRY, "IN", "--out=OUT", "--device=warp"], "device 'warp' cannot be used here"),
    ],
)
def test_mistakes_are_named_in_a_line(arguments, message, photos, tmp_path):
    places = {"IN": str(photos), "OUT": str(tmp_path / "out")}
    arguments = [arguments[0], *arguments[1:]]
    for name, place in places.items():
        arguments = [argument.replace(name, place) if argument != ENTRY else argument for argument in arguments]
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        main(["predict", *arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--num_samples=0"], ["--range", "5", "5"], ["--num_steps=many"]])
def test_wrong_options(option, photos, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *option])
    assert caught.value.code == 2


@pytest.fixture
def brain_model(monkeypatch):
    monkeypatch.setattr(predicting, "load_model", lambda *_: bright_segmenter(("flair", "t1ce")))


def test_volumes(brain_model, tmp_path, capsys):
    write_brats(tmp_path / "in", ["BraTS2021_00001", "BraTS2021_00002"], ("flair", "GD", "bet"), seg=None)
    (tmp_path / "in" / "BraTS2021_00002" / "BraTS2021_00002_flair.nii.gz").unlink()
    command = ["predict", "brain", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--panel"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--modality", "t1ce=*_GD", "--brain_mask=*_bet"])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "00002: it has no flair; its folder holds" in said
    assert "Segmented 1, failed 1." in said
    expected = [f"BraTS2021_00001_{kind}" for kind in ("disagreement.nii.gz", "mask.nii.gz", "panel.png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[:3] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modality", "t2=x"], r"takes flair, t1ce\. It has no channel t2\."),
        (["--volumes", "flair,t1"], "The volumes flair, t1 lack t1ce"),
        (["--range", "0", "1"], "--range is for pictures"),
        ([], r"No case in .*Expected a folder with a file for each of flair, t1ce"),
    ],
)
def test_mistakes_with_volumes(options, message, brain_model, photos, tmp_path):
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        main(["predict", "brain", str(photos), "--out", str(tmp_path / "out"), *options])


@pytest.mark.parametrize("option", [["--modality", "t1ce=x"], ["--volumes", "flair,t1ce"], ["--brain_mask", "x"]])
def test_options_of_volumes_are_refused_for_pictures(option, photos, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* are for models of volumes; this model takes red, green, blue"):
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *option])


def test_interruption(photos, tmp_path, monkeypatch, capsys):
    model = zoo.load_pretrained(ENTRY)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "draw_samples", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out")])
    assert caught.value.code == 130
    assert "continue with --resume" in capsys.readouterr().err


def test_help_names_the_other_commands(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    for name in ("predict", "windows", "zoo", "data", "score", "compare", "calibrate"):
        assert f"\n  {name} " in said


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: c["hyper_parameters"].update(old_argument=3),
        lambda c: c["hyper_parameters"].update(threshold=7),
        lambda c: c["state_dict"].pop(next(key for key in c["state_dict"] if key.startswith("denoiser."))),
        lambda c: c["hyper_parameters"].update(_class_path="torch.optim.AdamW"),
        lambda c: c["hyper_parameters"].update(_class_path="os.system"),
        lambda c: c["hyper_parameters"].update(_class_path=["x"]),
        lambda c: c.pop("state_dict"),
        lambda c: c.update(hyper_parameters=None),
    ],
)
def test_checkpoints_that_cannot_be_loaded(harm, run, tmp_path):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    harm(checkpoint)
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with pytest.raises(zoo.ZooError, match=r"odd\.ckpt"):
        load_checkpoint(tmp_path / "odd.ckpt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_a_cpu_gives(photos, tmp_path):
    for device in ("cpu", "cuda"):
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / device), *QUICK, "--device", device])
    maps = [np.asarray(Image.open(tmp_path / device / "a_probability.png")).astype(int) for device in ("cpu", "cuda")]
    assert abs(maps[0] - maps[1]).max() <= 2


def test_outputs_by_options(photos, tmp_path):
    out = tmp_path / "out"
    command = ["predict", ENTRY, str(photos), "--out", str(out), *QUICK]
    main([*command, "--maps", "mask", "--samples", "--label_map", "--threshold=0.4", "--pixel_size", "0.1", "0.2"])
    kinds = ("labels.png", "mask.png", "samples.tif")
    table = ["predictions.csv", "predictions.yaml"]
    assert sorted(path.name for path in out.iterdir()) == [f"{name}_{kind}" for name in "ab" for kind in kinds] + table
    assert "area_mm2" in (out / "predictions.csv").read_text()
    with pytest.raises(SystemExit, match=r"go on with them by --resume, replace them by --overwrite"):
        main(command)
    main([*command, "--overwrite", "--maps=mask", "--samples=npz", "--labels", "lesion=7"])
    kinds = ("labels.png", "mask.png", "samples.npz")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}_{kind}" for name in "ab" for kind in kinds] + table
    assert set(np.unique(np.asarray(Image.open(out / "a_labels.png")))) <= {0, 7}


@pytest.mark.parametrize(
    "option",
    [["--threshold=1"], ["--threshold=nan"], ["--pixel_size", "0"], ["--pixel_size", "1", "2", "3"],
     ["--pixel_size=inf"], ["--resume", "--overwrite"], ["--samples=gif"]],
)  # fmt: skip
def test_outputs_that_cannot_be(option, photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *option])
    assert caught.value.code == 2
    assert option[0].partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--samples=nifti"], "--samples nifti is for volumes"), (["--labels=brats"], "this model's regions are lesion")],
)
def test_outputs_that_the_model_has_not(option, message, photos, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["predict", ENTRY, str(photos), "--out", str(tmp_path / "out"), *option])


def test_outputs_that_volumes_have_not(brain_model, photos, tmp_path):
    for option, message in (
        (["--samples=tiff"], "--samples tiff is for pictures"),
        (["--pixel_size=1"], "for pictures"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["predict", "brain", str(photos), "--out", str(tmp_path / "out"), *option])
