"""The chain from labels to a student, in stages that resume."""

import json
import subprocess
import sys

import pytest
import yaml
from helpers.pseudo_files import NOTHING, module
from helpers.tiny_run import TINY

from diffmedseg.cli import chain, main
from diffmedseg.pseudo.checkpoints import proposing_checkpoint
from diffmedseg.pseudo.proposers import OfModel
from diffmedseg.recipes import recipe
from diffmedseg.zoo import load_model


def test_a_chain_refuses_an_impossible_number_of_true_masks_before_it_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "diffseg-student", "synthetic", "--true_masks", "-1"])
    assert "at least 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def stages(tmp_path, *options, monkeypatch):
    """Run a chain in this process, and return the commands of its stages."""
    done = []

    def run(arguments):
        done.append(arguments)
        main(arguments)

    monkeypatch.setattr(chain, "_run", run)
    tiny = [option.replace("--trainer.max_steps=2", "--student.trainer.max_steps=2") for option in TINY]
    tiny = [option for option in tiny if not option.startswith("--model.")]
    tiny = [option.replace("image_size=16", "image_size=32").replace("num_val=2", "num_val=8") for option in tiny]
    few = [f"--{who}.model.{name}=1" for who in ("teacher", "student") for name in
           ("num_samples", "num_steps", "val_num_steps")]  # fmt: skip
    main(["train", "diffseg-student", "synthetic", *tiny, *few, "--teacher.trainer.max_steps=2", "--crf=off",
          f"--runs={tmp_path}", *options])  # fmt: skip
    return done


def policy(run):
    return json.loads((run / "metrics.json").read_text())["policy"]


def test_the_chain_trains_proposes_and_trains_on_its_own_masks(tmp_path, monkeypatch, capsys):
    done = stages(tmp_path, monkeypatch=monkeypatch)
    assert [arguments[:2] for arguments in done[:1]] == [["train", "diffseg"]]
    assert [arguments[0] for arguments in done] == ["train", "pseudo", "train"]
    folder = tmp_path / "diffseg-student-synthetic"
    teacher, student = folder / "teacher" / "version_0", folder / "student_1" / "version_0"
    assert proposing_checkpoint(str(teacher)) == (teacher / "checkpoints" / "last.ckpt", None)
    assert proposing_checkpoint(str(student)) == (student / "checkpoints" / "best.ckpt", None)
    learned = policy(student)["learned_from"]
    assert learned.startswith("labels: pseudo masks of ")
    assert learned.endswith(NOTHING)
    assert "image-level labels" in learned
    assert policy(teacher)["learned_from"] == "image-level labels"
    assert policy(teacher)["masks_chose"].startswith("the checkpoint")  # its last checkpoint proposes
    assert "masks_chose" not in policy(student)
    model = load_model(str(student))
    assert OfModel(model, module(folder / "pseudo_1").info, None).chosen_by is None
    assert not model.cuts_maps
    # All is finished: nothing is run again, and another cycle follows.
    assert stages(tmp_path, monkeypatch=monkeypatch) == []
    again = stages(tmp_path, "--cycles=2", monkeypatch=monkeypatch)
    assert [arguments[0] for arguments in again] == ["pseudo", "train"]
    assert str(student) in again[0]
    assert policy(folder / "student_2" / "version_0")["learned_from"].endswith(NOTHING)
    main(["zoo", "export", str(student), "--name", "student_synthetic.tiny", "--folder", str(tmp_path / "zoo")])
    for path in (tmp_path / "zoo" / "student_synthetic.tiny").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()  # nothing tells whose machine it was
    with pytest.raises(SystemExit) as stopped:
        stages(tmp_path, "--true_masks=3", monkeypatch=monkeypatch)
    assert "was started with other options" in str(stopped.value)


def test_a_chain_of_luminance_trains_no_teacher_and_names_true_masks(tmp_path, monkeypatch):
    steps = ["--fine_tuning.trainer.max_steps=2", "--fine_tuning.data.steps_per_epoch=2"]
    done = stages(tmp_path, "--proposer=luminance", "--true_masks=4", "--name=own", *steps, monkeypatch=monkeypatch)
    assert [arguments[0] for arguments in done] == ["pseudo", "train", "train"]
    tuned, student = (tmp_path / "own" / name / "version_0" for name in ("fine_tuned_1", "student_1"))
    learned = policy(student)["learned_from"]
    assert learned == policy(tuned)["learned_from"]
    assert yaml.safe_load((tuned / "config.yaml").read_text())["data"]["init_args"]["image_size"] == 32  # the student's
    assert str(student) in (tuned / "initialisation.json").read_text()
    assert learned == f"labels and 4 true masks: pseudo masks of luminance (learned from nothing); {NOTHING}"


@pytest.mark.parametrize(
    ("own", "proposing"),
    [
        ([], ["mean", "--crf", "off", "--agreement", "0.5"]),
        (["--proposer", "model"], ["model", "--crf", "auto"]),  # who asks for anything else gets it alone
    ],
)
def test_dermoscopy_has_the_teacher_that_measured_best(tmp_path, monkeypatch, own, proposing):
    done = []

    def finish(experiment, arguments):
        done.append(arguments)
        run = experiment / "version_0"
        run.mkdir(parents=True)
        (run / "metrics.json").write_text(json.dumps({"policy": {"learned_from": "labels"}}))
        return run

    monkeypatch.setattr(chain, "_finish", finish)
    monkeypatch.setattr(chain, "_run", done.append)
    main(["train", "diffseg-student", "isic2017", "--data.root=images", "--preset=cpu", f"--runs={tmp_path}", *own])
    teacher, pseudo, student = done
    assert teacher[teacher.index("--preset") + 1] == "border"
    assert not any("max_steps" in argument for argument in teacher)  # the preset says
    assert student[student.index("--preset") + 1] == "cpu"
    start = pseudo.index("--proposer") + 1
    assert pseudo[start : start + len(proposing)] == proposing
    recipe("diffseg", "isic2017", preset="border")  # it composes


def test_a_stage_that_fails_ends_the_chain_with_its_code(monkeypatch):
    started = []

    def start(command):
        started.append(command)
        return subprocess_of([sys.executable, "-c", "import sys; sys.exit(3)"])

    subprocess_of = subprocess.Popen
    monkeypatch.setattr(chain.subprocess, "Popen", start)
    with pytest.raises(SystemExit) as stopped:
        chain._run(["train", "diffseg", "synthetic"])
    assert stopped.value.code == 3
    assert started[0][-4:] == ["diffmedseg", "train", "diffseg", "synthetic"]
