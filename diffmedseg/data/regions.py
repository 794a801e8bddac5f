"""DICOM codes of regions.

Codes come from the lists for segments in the standard (DICOM PS3.16, CID 7150 and 7151), or else from other codes of
SNOMED CT (SCT) and the NCI Thesaurus (NCIt) in PS3.16. The name of a region gives its code, for all data sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept.

    Attributes:
        value: The code.
        scheme: The coding scheme: ``SCT``, ``NCIt``, or ``99DIFFMEDSEG`` for a private code.
        meaning: The concept in words.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class RegionCode:
    """The codes of a region.

    Attributes:
        category: Its category, such as an anatomical structure.
        type: Its type within the category, such as the optic nerve head.
    """

    category: Code
    type: Code


_PRIVATE = "99DIFFMEDSEG"  # PS3.16, section 8.2: private schemes begin with 99
_MOST_LETTERS = 64  # of a meaning, LO
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_UNKNOWN = Code("309825002", "SCT", "Spatial and Relational Concept")  # of what is only known to be a region

_NEOPLASM = RegionCode(_ABNORMAL, Code("108369006", "SCT", "Neoplasm"))
_LESION = RegionCode(_ABNORMAL, Code("52988006", "SCT", "Lesion"))

#: By name of a region. The optic cup has no code in PS3.16.
REGION_CODES: Mapping[str, RegionCode] = {
    "disc": RegionCode(_ANATOMY, Code("81016008", "SCT", "Optic nerve head")),
    "enhancing_tumour": RegionCode(_ABNORMAL, Code("C113842", "NCIt", "Enhancing Lesion")),
    "lesion": _LESION,
    "nodule": RegionCode(_ABNORMAL, Code("27925004", "SCT", "Nodule")),  # of the lung or of the thyroid
    "tumour": _NEOPLASM,
    "tumour_core": _NEOPLASM,
    "vessels": RegionCode(_ANATOMY, Code("59820001", "SCT", "Blood Vessel")),
    "whole_tumour": _LESION,  # with the oedema around the neoplasm
}


def region_code(region: str) -> RegionCode:
    """Return the code of a region; an unknown region gets its name as a private code."""
    name = region[:_MOST_LETTERS]
    return REGION_CODES.get(region) or RegionCode(_UNKNOWN, Code(name, _PRIVATE, name))
