"""Data modules that split their cases by patient."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.source import Source
from diffmedseg.data.splits import Case, draw_splits, published_splits, read_lists, read_splits, write_splits
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home
from diffmedseg.wording import count, first_names

AnyCase = TypeVar("AnyCase", bound=Case)

_log = logging.getLogger(__name__)


class FoldsDataModule(SegmentationDataModule, Generic[AnyCase]):
    """Split patients into folds, or read splits from a file. One fold is the test set.

    Args:
        root: Folder that holds the cases.
        source: Name, licence and origin of the data set.
        folds: Number of folds.
        fold: The test fold, from 0.
        val_fraction: Fraction of the other patients for validation, which chooses the checkpoint. If it rounds to no
            patient, the training patients choose it.
        split_seed: Seed of the folds; independent of ``seed``.
        splits: File of the splits of this fold: read if it exists, else written. None draws the same splits each time.
        published: Published splits by name. Each has a regular expression of case ids for each of its sets. A key
            ``lists`` may name a JSON file with a list of cases for each set; ``{fold}`` in the name is replaced by
            ``fold``. The group ``listed`` of the regular expression is then the name in the list.
        split_by: ``folds``, or the name of a published split.
        kwargs: The arguments of :class:`~diffmedseg.data.SegmentationDataModule`, by name.
    """

    def __init__(
        self,
        root: str | Path,
        source: Source,
        folds: int = 5,
        fold: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        splits: str | Path | None = None,
        published: Mapping[str, Mapping[str, str]] | None = None,
        split_by: str = "folds",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= fold < folds or folds < 2:
            raise ValueError(
                f"fold is {fold} and folds is {folds}; folds has to be at least 2, and fold from 0 to folds - 1."
            )
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction is {val_fraction}; it has to be in [0, 1).")
        self.root, self.source = expand_home(root), source
        self.folds, self.fold, self.val_fraction, self.split_seed = folds, fold, val_fraction, split_seed
        self.splits = None if splits is None else expand_home(splits)
        self.published, self.split_by = dict(published or {}), split_by
        if split_by != "folds" and split_by not in self.published:
            raise ValueError(f"split_by is {split_by!r}; it may be {first_names(['folds', *self.published], 9)}.")
        self._drawn: dict[str, float | str] = {"val_fraction": val_fraction, "split_seed": split_seed}
        self._drawn |= {"folds": folds, "fold": fold} if split_by == "folds" else {"split_by": split_by}
        if "lists" in self.published.get(split_by, {}):
            self._drawn["fold"] = fold

    @abstractmethod
    def find_cases(self) -> Sequence[AnyCase]:
        """Find the cases below the root.

        Raises:
            DataError: If there are no cases, or files are missing.
        """

    def patient(self, case: str) -> str:
        """Return the patient of a case."""
        return self.cases[case].patient

    def split_cases(self, split: Split) -> set[str]:
        """Return the cases of a split, without reading images."""
        return set(self.split_ids[split])

    def write_splits(self) -> None:
        """Write the splits to the file ``splits``, unless the file exists."""
        if self.splits is not None and not self.splits.is_file():
            write_splits(self.splits, self.deal(list(self.cases.values())), self._drawn)
            self.__dict__.pop("split_ids", None)  # every process reads the same file

    def deal(self, cases: Sequence[AnyCase]) -> dict[str, list[str]]:
        """Split cases by folds, or by the published split ``split_by``. A file of ``splits`` takes precedence.

        Returns:
            Ids of the cases of each split.

        Raises:
            DataError: If there are too few cases, or a list of the data set is damaged.
        """
        if self.split_by == "folds":
            return draw_splits(cases, self.folds, self.fold, self.val_fraction, self.split_seed)
        try:
            patterns = dict(self.published[self.split_by])
            file = patterns.pop("lists", None)
            lists = None if file is None else read_lists(self.root, file.format(fold=self.fold))
            return published_splits(cases, patterns, self.val_fraction, self.split_seed, lists)
        except DataError as error:
            raise DataError(f"{self.info.title}: {error}\n{self.info.download}", error.names) from error

    @cached_property
    def cases(self) -> Mapping[str, AnyCase]:
        """All cases by id."""
        try:
            return {case.id: case for case in self.find_cases()}
        except DataError as error:
            raise DataError(
                f"{self.info.title}: {error}\n{self.info.download}\nThen name their folder: --data.root FOLDER, or "
                "root= in Python.",
                error.names,
            ) from error

    @cached_property
    def split_ids(self) -> dict[str, list[str]]:
        """Ids of the cases of each split."""
        cases = list(self.cases.values())
        if self.splits is not None and self.splits.is_file():
            splits = read_splits(self.splits, cases, self._drawn)
        else:
            splits = self.deal(cases)
        if set(splits["val"]) & set(splits["train"]):
            _log.warning(
                "%s: the checkpoint is chosen on the training cases, since there are too few for validation (%s).",
                self.info.title,
                count(len(splits["train"]), "case"),
            )
        for name, ids in splits.items():
            _log.info("%s: %s is %s: %s.", self.info.title, name, count(len(ids), "case"), first_names(ids))
        return splits
