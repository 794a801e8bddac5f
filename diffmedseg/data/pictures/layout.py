"""Find the files of a picture by their names, and read the values of its masks."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffmedseg.data.pictures.cases import CaseMasks, Found, PictureCase, PictureLayout
from diffmedseg.data.pictures.finding import Names, named_files, nothing_found
from diffmedseg.data.pictures.masks import FileMasks
from diffmedseg.errors import DataError
from diffmedseg.reading.names import PICTURES, comparable, files_below, is_hidden, mask_key
from diffmedseg.wording import count, first_names


class _MaskIndex:
    """Find the masks of pictures among files. Upper and lower case do not matter.

    Args:
        files: Name and path of each file. The name is relative to the folder, without suffix.
    """

    def __init__(self, files: Iterable[tuple[str, Path]]) -> None:
        self._exact: dict[str, list[Path]] = {}
        self._by_key: dict[str, list[Path]] = {}
        self._by_last: dict[str, list[str]] = defaultdict(list)
        for name, path in files:
            form = comparable(name)
            if form not in self._exact:
                self._by_last[form.rpartition("/")[2]].append(form)
            self._exact.setdefault(form, []).append(path)
            self._by_key.setdefault(comparable(f"{name.rpartition('/')[0]}/{mask_key(path)}"), []).append(path)

    def find(self, template: str, groups: Mapping[str, str], image: Path) -> Path | None:
        """Find the mask of a picture; None without a mask.

        Args:
            template: Name of the mask, with the names of groups in braces.
            groups: Values of the groups in the picture's name.
            image: The picture. It is never its own mask.

        Raises:
            DataError: If several files match.
        """
        name = comparable(template.format(**groups))
        folder, _, last = name.rpartition("/")
        if "**" in folder:
            pattern = re.compile(f"{_any_folders(folder)}/{re.escape(last)}")
            candidates = [path for key in self._by_last[last] if pattern.fullmatch(key) for path in self._exact[key]]
        else:
            candidates = list(dict.fromkeys([*self._exact.get(name, []), *self._by_key.get(f"{folder}/{last}", [])]))
        masks = [path for path in candidates if path != image]
        if len(masks) > 1:
            raise DataError(
                f"{image} has several masks for {template}: {first_names(list(map(str, masks)))}. Keep one."
            )
        return masks[0] if masks else None


class FileNames(PictureLayout):
    """Find pictures and masks by their paths below the root.

    Args:
        image: Regular expression of a picture's path, with ``/`` between folders and without suffix. Group ``id`` is
            the picture's name (with ``_`` for ``/``). Group ``patient``, if there is one, is the patient.
        masks: For each region, from the outermost inwards, the path of each rater's mask without suffix. Groups of
            ``image`` are written in braces, such as ``{id}``. In folders ``*`` matches anything, and each matching
            folder is a rater. ``**`` matches any folders of the same rater. You may leave out endings such as
            ``_segmentation`` or ``_mask``.
        values: For each region its grey values, if one file holds several regions. Values that are neither named nor
            ``background`` are refused. None: foreground is above half of the range.
        background: Grey values outside all regions; used with ``values``.
        field_of_view: Path of the mask of the field of view. Nothing outside it is scored. Pictures without this file
            are refused. None for data without a field of view.
        name: Name of a picture with groups of ``image`` in braces, if group ``id`` is not suitable.
        complete: Whether every rater has a mask of every picture, possibly empty. A picture that lacks a mask is then
            refused.
        unsure: Path of a mask of unsure pixels, as ``diffmedseg pseudo`` writes it. No training loss uses these pixels.
            A picture without this file has no unsure pixels.
    """

    def __init__(
        self,
        image: str,
        masks: Mapping[str, Sequence[str]],
        values: Mapping[str, Sequence[int]] | None = None,
        background: Sequence[int] = (0,),
        field_of_view: str | None = None,
        name: str = "{id}",
        complete: bool = False,
        unsure: str | None = None,
    ) -> None:
        self.image, self.masks = re.compile(image, re.IGNORECASE), {name: list(paths) for name, paths in masks.items()}
        self.values = None if values is None else {name: sorted(set(values[name])) for name in self.masks}
        self.background, self.field_of_view = sorted(set(background)), field_of_view
        self.name, self.complete, self.unsure = name, complete, unsure
        if "id" not in self.image.groupindex:
            raise ValueError(f"{image!r} has no group (?P<id>...). This group is the name of a picture.")
        if not self.masks or len({len(paths) for paths in self.masks.values()}) > 1:
            raise ValueError("masks needs the same number of paths for each region: one path per rater.")

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(self.masks)

    @property
    def settings(self) -> object:
        """Settings besides the files that change the masks; see the base class."""
        return self.values if self.unsure is None else (self.values, "unsure")

    def raters(self, root: Path) -> int:
        """Count the raters: the folders that match each path."""
        return len(self._templates(root))

    def _templates(self, root: Path) -> list[tuple[str, ...]]:
        """Return for each rater the paths of the masks of all regions, with folders in place of ``*``."""
        raters: list[tuple[str, ...]] = []
        for paths in zip(*self.masks.values(), strict=True):
            folder = paths[0].rpartition("/")[0]
            if "*" not in folder.replace("**", ""):
                raters.append(paths)
                continue
            matches = root.glob(_any_case(folder))
            for match in sorted(path for path in matches if path.is_dir() and not is_hidden(path.name)):
                values = _wildcards(folder, match.relative_to(root).as_posix())
                raters.append(tuple(_fill(path, values) for path in paths))
        return raters

    def search(self, root: Path) -> Found:
        """Find pictures and masks.

        Raises:
            DataError: If there is none, two pictures have the same name, or a rater outlined only some regions of a
                picture.
        """
        paths = files_below(root)
        files = named_files(root, paths)
        mask = _MaskIndex(files).find
        templates, cases, without_mask = self._templates(root), [], []
        names = Names()
        incomplete: dict[str, str] = {}
        for name, path in files:
            match = self.image.fullmatch(name)
            if match is None:
                continue
            groups = {group: value or "" for group, value in match.groupdict().items()}
            case = self.name.format(**groups).replace("/", "_")
            names.add(case, path)
            masks = [
                self._of_rater([mask(template, groups, path) for template in rater], path, rater) for rater in templates
            ]
            if self.complete and not all(masks):
                missing = [
                    rater[0].format(**groups) for rater, files in zip(templates, masks, strict=True) if not files
                ]
                incomplete[case] = f"{path} has no mask {', '.join(missing)}"
            elif any(masks):
                visible = None if self.field_of_view is None else mask(self.field_of_view, groups, path)
                if self.field_of_view is not None and visible is None:
                    raise DataError(f"{path} has no field of view, {self.field_of_view}: download it again.")
                unsure = None if self.unsure is None else mask(self.unsure, groups, path)
                cases.append(PictureCase(case, groups.get("patient") or case, path, tuple(masks), visible, unsure))
            else:
                without_mask.append(case)
        if incomplete:
            raise self._incomplete(incomplete, len(templates))
        if not cases:
            masks_of_all = [path for paths_of_region in self.masks.values() for path in paths_of_region]
            raise nothing_found(root, len(names), self.image.pattern, masks_of_all, paths, PICTURES)
        paired = {path for case in cases for rater in case.masks for path in rater or ()}
        unpaired = self._masks_without_picture(files, paired, templates)
        return Found(
            sorted(cases, key=lambda case: case.id),
            without_mask,
            [path.relative_to(root).as_posix() for path in unpaired],
        )

    def _masks_without_picture(
        self, files: Sequence[tuple[str, Path]], paired: set[Path], templates: Sequence[tuple[str, ...]]
    ) -> list[Path]:
        """Return the masks without a picture. Pictures that this layout does not read count, too."""
        patterns = [self._of_any_picture(path) for path in dict.fromkeys(path for rater in templates for path in rater)]
        masks: dict[Path, str] = {}
        pictures = set()
        for name, path in files:
            match = next((match for pattern in patterns if (match := pattern.fullmatch(name))), None)
            if match is None or self.image.fullmatch(name):
                pictures.add(comparable(name.rpartition("/")[2]))
            elif path not in paired:
                masks[path] = comparable((match.groupdict().get("id") or "").rpartition("/")[2])
        return [path for path, name in masks.items() if not {name, mask_key(Path(name))} & pictures]

    def _of_any_picture(self, template: str) -> re.Pattern[str]:
        """Return the regular expression of the paths of masks of any picture. Group ``id`` is the picture's name."""
        groups = dict.fromkeys(self.image.groupindex, "\0") | {"id": "\1"}
        folder, slash, last = template.format(**groups).rpartition("/")
        pattern = _any_folders(folder) + slash + re.escape(last)
        pattern = pattern.replace("\0", ".*?").replace("\1", "(?P<id>.+)", 1).replace("\1", "(?P=id)")
        return re.compile(pattern, re.IGNORECASE)

    def _of_rater(self, files: Sequence[Path | None], image: Path, rater: Sequence[str]) -> tuple[Path, ...] | None:
        """Return the masks of one rater; None if the rater did not outline the picture."""
        present = [path for path in files if path is not None]
        if present and len(present) < len(files):
            missing = first_names([name for name, path in zip(rater, files, strict=True) if path is None])
            raise DataError(f"{image} has no {missing}, but other regions of the same rater: download it again.")
        return tuple(present) or None

    @staticmethod
    def _incomplete(lacking: Mapping[str, str], raters: int) -> DataError:
        return DataError(
            f"{count(len(lacking), 'picture')} without all of the {raters} masks that each picture here has: "
            f"{first_names(lacking.values())}. Download these files again. A rater who outlined nothing has an empty "
            "mask.",
            lacking,
        )

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return a reader of the masks of these pictures."""
        return FileMasks(cases, self.values, self.background)


def _any_folders(pattern: str) -> str:
    """Return the regular expression of folders in which ``**`` matches any number of folders, also none."""
    return "".join(
        "(?:.*/)?" if part == "**/" else "(?:/.*)?" if part == "/**" else re.escape(part)
        for part in re.split(r"(\*\*/|/\*\*)", pattern)
    )


def _any_case(pattern: str) -> str:
    """Return a pattern of folders that matches upper and lower case."""
    return re.sub("[A-Za-z]", lambda letter: f"[{letter[0].lower()}{letter[0].upper()}]", pattern)


def _wildcards(pattern: str, path: str) -> list[str]:
    """Return the parts of a path that the ``*`` of a pattern match."""
    match = re.fullmatch("(.*)".join(re.escape(part) for part in pattern.split("*")), path, re.IGNORECASE)
    return list(match.groups()) if match else []


def _fill(pattern: str, values: Sequence[str]) -> str:
    """Put values in place of the first ``*`` of a pattern."""
    for value in values:
        pattern = pattern.replace("*", value, 1)
    return pattern
