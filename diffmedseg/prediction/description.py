"""``predictions.yaml``: the settings that the results in a folder were made with."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffmedseg.atomic import write_first, write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import read_yaml
from diffmedseg.prediction.outputs import Outputs
from diffmedseg.prediction.parts import OF_PARTS
from diffmedseg.reading.names import PREDICTIONS

_OUTPUTS = "outputs"  # the key of the written files and columns


class Description:
    """Writes ``predictions.yaml``, and compares it with the settings of this call.

    Args:
        folder: The folder of predictions.
        settings: Settings that the results depend on.
        outputs: The written files.
        kinds: The written maps.
        labels: Values of the label maps, by region; None without label maps.
        columns: Names of the columns of the table.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        outputs: Outputs,
        kinds: tuple[str, ...],
        labels: Mapping[str, int] | None,
        columns: list[str],
    ) -> None:
        self.path = folder / PREDICTIONS
        self._settings: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(settings)))  # as it is read again
        self._outputs, self._kinds, self._labels, self._columns = outputs, kinds, labels, columns
        self._earlier_labels: Mapping[str, int] | None = (
            None  # of the label maps in the folder, if this call makes none
        )

    def check(self, division: Mapping[str, Any] | None) -> None:
        """Compare the settings of this call with the settings in the file.

        Args:
            division: The facts of the division into parts; None without parts.

        Raises:
            DataError: If settings differ, or the file is damaged.
        """
        try:
            before = read_yaml(self.path)
            outputs, earlier_division = before.pop(_OUTPUTS, None) or {}, before.pop(OF_PARTS, None)
            differences = _differences(before, self._settings, [*self._settings, *before])
            labels = outputs.get("labels")
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}): predict into a new folder.") from error
        if self._labels is None:
            self._earlier_labels = labels
        elif labels is not None and labels != self._labels:
            differences.append(f"labels {labels} then and {self._labels} now")
        if division is not None and earlier_division is not None:  # parts of one call share outputs and inputs
            now = self._describe_outputs()
            differences += _differences(earlier_division, division, division)
            differences += _differences(outputs, now, now)
        if differences:
            raise DataError(
                f"{self.path.parent} was predicted with other settings ({', '.join(differences)}): choose a new folder."
            )

    def write(self, division: Mapping[str, Any] | None) -> None:
        """Write the file."""
        write_whole(self.path, lambda temporary: self._write(temporary, division))

    def share(self, division: Mapping[str, Any]) -> None:
        """Write the file if no other part has, else check the file.

        Args:
            division: The facts of the division into parts.

        Raises:
            DataError: If the parts have different settings or inputs.
        """
        if write_first(self.path, lambda temporary: self._write(temporary, division)):
            return
        self.check(division)
        if division != read_yaml(self.path).get(OF_PARTS):  # of a single process, whose results are kept
            self.write(division)

    def _write(self, path: Path, division: Mapping[str, Any] | None) -> None:
        content = self._settings | {_OUTPUTS: self._describe_outputs()}
        if division is not None:
            content |= {OF_PARTS: division}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _describe_outputs(self) -> dict[str, Any]:
        labels, outputs = self._labels or self._earlier_labels, self._outputs
        return {
            "maps": list(self._kinds),
            "samples": outputs.samples,
            "labels": dict(labels) if labels else None,
            "pixel_size": None if outputs.pixel_size is None else list(outputs.pixel_size),
            "dicom_seg": outputs.dicom_seg,
            "columns": self._columns,
        }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Describe the values that differ, by name."""
    return [
        f"{name} {before.get(name)} then and {now.get(name)} now"
        for name in dict.fromkeys(names)
        if before.get(name) != now.get(name)
    ]
