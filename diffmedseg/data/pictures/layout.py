"""Which files belong to a picture, told by their names, and what the values of its masks mean."""

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
    """Finds the masks of pictures among files, whatever the case of their names.

    Args:
        files: Name, relative to the folder and without suffix, and path of each file.
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
        """Find the mask of a picture; None where there is none.

        Args:
            template: Name of the mask, with the names of groups in braces.
            groups: What the groups are in the picture's name.
            image: The picture, which is not its own mask.

        Raises:
            DataError: If several files fit.
        """
        name = comparable(template.format(**groups))
        folder, _, last = name.rpartition("/")
        if "**" in folder:
            there = re.compile(f"{_any_folders(folder)}/{re.escape(last)}")
            named = [path for other in self._by_last[last] if there.fullmatch(other) for path in self._exact[other]]
        else:
            named = list(dict.fromkeys([*self._exact.get(name, []), *self._by_key.get(f"{folder}/{last}", [])]))
        found = [path for path in named if path != image]
        if len(found) > 1:
            raise DataError(
                f"{image} has several masks for {template}: {first_names(list(map(str, found)))}. Keep one."
            )
        return found[0] if found else None


class FileNames(PictureLayout):
    """Finds pictures and masks by their paths below the root.

    Args:
        image: Regular expression of a picture's path, with ``/`` between folders and without suffix. Its group ``id``
            is the picture's name (with ``_`` for ``/``); a group ``patient`` tells the patient.
        masks: By region, from the outermost in, the path of each rater's mask without suffix. Groups of ``image``
            stand in braces, as ``{id}``; in folders ``*`` stands for anything, and each folder that fits is a rater;
            ``**`` stands for any folders, of the same rater. Endings such as ``_segmentation`` or ``_mask`` may be left
            out.
        values: By region, the grey values that belong to it, where one file holds several; other values than those
            named, and ``background``, are refused. None: foreground is above half of the range.
        background: Grey values of what is in no region, where ``values`` is given.
        field_of_view: The path of the picture's field of view, outside of which nothing is scored; None where there is
            none. Pictures without it are refused.
        unsure: The path of a mask of the pixels whose masks nobody is sure of, as ``diffmedseg pseudo`` writes it: no
            training loss looks at them. Pictures without it are sure everywhere.
        name: A picture's name, where its group ``id`` does not serve: groups of ``image`` stand in braces.
        complete: Whether every rater has a mask of every picture, which may be empty. A picture without one of these
            masks is then refused.
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
            raise ValueError(f"{image!r} has no group (?P<id>...), which names a picture.")
        if not self.masks or len({len(paths) for paths in self.masks.values()}) > 1:
            raise ValueError("Every region needs the same number of paths: one for each rater.")

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(self.masks)

    @property
    def settings(self) -> object:
        """What the masks depend on beside their files; see the base class."""
        return self.values if self.unsure is None else (self.values, "unsure")

    def raters(self, root: Path) -> int:
        """Count the raters: the folders that fit each path."""
        return len(self._templates(root))

    def _templates(self, root: Path) -> list[tuple[str, ...]]:
        """Return the paths of masks by rater, and by region within, with folders in place of ``*``."""
        raters: list[tuple[str, ...]] = []
        for paths in zip(*self.masks.values(), strict=True):
            folder = paths[0].rpartition("/")[0]
            if "*" not in folder.replace("**", ""):
                raters.append(paths)
                continue
            fits = sorted(one for one in root.glob(_any_case(folder)) if one.is_dir() and not is_hidden(one.name))
            for found in fits:
                taken = _wildcards(folder, found.relative_to(root).as_posix())
                raters.append(tuple(_fill(path, taken) for path in paths))
        return raters

    def search(self, root: Path) -> Found:
        """Find pictures and masks.

        Raises:
            DataError: If there is none, names occur twice, or a rater outlined only some of the regions of a picture.
        """
        paths = files_below(root)
        files = named_files(root, paths)
        mask = _MaskIndex(files).find
        templates, cases, without = self._templates(root), [], []
        names = Names()
        incomplete: dict[str, str] = {}
        for name, path in files:
            match = self.image.fullmatch(name)
            if match is None:
                continue
            groups = {group: value or "" for group, value in match.groupdict().items()}
            case = self.name.format(**groups).replace("/", "_")
            names.add(case, path)
            masks = [self._of_rater([mask(one, groups, path) for one in rater], path, rater) for rater in templates]
            if self.complete and not all(masks):
                lacks = [rater[0].format(**groups) for rater, files in zip(templates, masks, strict=True) if not files]
                incomplete[case] = f"{path} has no mask {', '.join(lacks)}"
            elif any(masks):
                seen_part = None if self.field_of_view is None else mask(self.field_of_view, groups, path)
                if self.field_of_view is not None and seen_part is None:
                    raise DataError(f"{path} has no field of view, {self.field_of_view}: download it again.")
                unsure = None if self.unsure is None else mask(self.unsure, groups, path)
                cases.append(PictureCase(case, groups.get("patient") or case, path, tuple(masks), seen_part, unsure))
            else:
                without.append(case)
        if incomplete:
            raise self._incomplete(incomplete, len(templates))
        if not cases:
            masks_of_all = [path for paths_of_region in self.masks.values() for path in paths_of_region]
            raise nothing_found(root, len(names), self.image.pattern, masks_of_all, paths, PICTURES)
        alone = self._alone(files, {path for case in cases for rater in case.masks for path in rater or ()}, templates)
        return Found(
            sorted(cases, key=lambda case: case.id), without, [path.relative_to(root).as_posix() for path in alone]
        )

    def _alone(
        self, files: Sequence[tuple[str, Path]], used: set[Path], templates: Sequence[tuple[str, ...]]
    ) -> list[Path]:
        """Return the masks whose picture is not there, not even as one that this layout does not read."""
        patterns = [self._of_any_picture(path) for path in dict.fromkeys(path for rater in templates for path in rater)]
        masks: dict[Path, str] = {}
        others = set()
        for name, path in files:
            match = next((match for pattern in patterns if (match := pattern.fullmatch(name))), None)
            if match is None or self.image.fullmatch(name):
                others.add(comparable(name.rpartition("/")[2]))
            elif path not in used:
                masks[path] = comparable((match.groupdict().get("id") or "").rpartition("/")[2])
        return [path for path, name in masks.items() if not {name, mask_key(Path(name))} & others]

    def _of_any_picture(self, template: str) -> re.Pattern[str]:
        """Return the regular expression of masks' paths, whichever the picture; its group ``id`` names that."""
        groups = dict.fromkeys(self.image.groupindex, "\0") | {"id": "\1"}
        folder, slash, last = template.format(**groups).rpartition("/")
        pattern = _any_folders(folder) + slash + re.escape(last)
        pattern = pattern.replace("\0", ".*?").replace("\1", "(?P<id>.+)", 1).replace("\1", "(?P=id)")
        return re.compile(pattern, re.IGNORECASE)

    def _of_rater(self, found: Sequence[Path | None], image: Path, rater: Sequence[str]) -> tuple[Path, ...] | None:
        there = [path for path in found if path is not None]
        if there and len(there) < len(found):
            missing = first_names([one for one, path in zip(rater, found, strict=True) if path is None])
            raise DataError(f"{image} has no {missing}, but other regions of the same rater: download it again.")
        return tuple(there) or None

    @staticmethod
    def _incomplete(found: Mapping[str, str], raters: int) -> DataError:
        return DataError(
            f"{count(len(found), 'picture')} without all of the {raters} masks that this data set has of each: "
            f"{first_names(found.values())}. Download these files again. A rater who outlined nothing has an empty "
            "mask.",
            found,
        )

    def reader(self, cases: Sequence[PictureCase]) -> CaseMasks:
        """Return what reads the masks of these pictures."""
        return FileMasks(cases, self.values, self.background)


def _any_folders(pattern: str) -> str:
    """Return the regular expression of folders where ``**`` stands for any number of them, none included."""
    return "".join(
        "(?:.*/)?" if part == "**/" else "(?:/.*)?" if part == "/**" else re.escape(part)
        for part in re.split(r"(\*\*/|/\*\*)", pattern)
    )


def _any_case(pattern: str) -> str:
    """Return a pattern of folders that minds no case."""
    return re.sub("[A-Za-z]", lambda letter: f"[{letter[0].lower()}{letter[0].upper()}]", pattern)


def _wildcards(pattern: str, path: str) -> list[str]:
    """Return what the ``*`` of a pattern stand for in a path."""
    match = re.fullmatch("(.*)".join(re.escape(part) for part in pattern.split("*")), path, re.IGNORECASE)
    return list(match.groups()) if match else []


def _fill(pattern: str, values: Sequence[str]) -> str:
    """Put values in place of the first ``*`` of a pattern."""
    for value in values:
        pattern = pattern.replace("*", value, 1)
    return pattern
