"""Codes of the content tree (PS3.16), and private label codes."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from models.contracts import CodedConcept, Presence
from workers.results.texts import fold

IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
KEY_OBJECT_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
COMMENT = Code("121106", "DCM", "Comment")
SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
SOURCE = Code("260753009", "SCT", "Source")
PROBABILITY = Code("122157", "DCM", "Probability")
NO_UNITS = Code("1", "UCUM", "no units")
BOUNDED_BY = Code("75958009", "SCT", "Bounded by")
VISUAL_EXPLANATION = Code("130401", "DCM", "Visual explanation")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
DEVICE = Code("121007", "DCM", "Device")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DEVICE_UID = Code("121012", "DCM", "Device Observer UID")
DEVICE_NAME = Code("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL_NAME = Code("121015", "DCM", "Device Observer Model Name")
DEVICE_SERIAL = Code("121016", "DCM", "Device Observer Serial Number")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_MANUFACTURER = Code("122405", "DCM", "Algorithm Manufacturer")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_FAMILY = Code("111000", "DCM", "Algorithm Family")
GEOMETRIC_PURPOSE = Code("130400", "DCM", "Geometric purpose of region")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
SOURCE_OF_MEASUREMENT = Code("121112", "DCM", "Source of Measurement")

# CID 240.
PRESENCE = {
    Presence.PRESENT: Code("52101004", "SCT", "Present"),
    Presence.ABSENT: Code("272519000", "SCT", "Absent"),
    Presence.UNDETERMINED: Code("373068000", "SCT", "Undetermined"),
}

# CID 100. Its radiography code, (43468-8, LN), is too new for the validators in use; this one they all take.
_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
}
_IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")

# CID 6042 by (some image was not analysed, there are findings).
_SUMMARIES = {
    (False, False): Code("111241", "DCM", "All algorithms succeeded; without findings"),
    (False, True): Code("111242", "DCM", "All algorithms succeeded; with findings"),
    (True, False): Code("111243", "DCM", "Not all algorithms succeeded; without findings"),
    (True, True): Code("111244", "DCM", "Not all algorithms succeeded; with findings"),
}
_NOTHING_ANALYSED = Code("111245", "DCM", "No algorithms succeeded; without findings")


def procedure(modality: str) -> Code:
    """The procedure reported, by the source's modality."""
    return _PROCEDURES.get(modality, _IMAGING_PROCEDURE)


def summary(analysed: int, refused: int, findings: bool) -> Code:
    """One word for the whole run."""
    return _SUMMARIES[(refused > 0, findings)] if analysed else _NOTHING_ANALYSED


def code_of(concept: CodedConcept, unicode: bool) -> Code:
    """A model's code, with its meaning in the object's character set."""
    return Code(concept.value, concept.scheme, fold(concept.meaning, 64, unicode))


def private_schemes(concepts: Iterable[CodedConcept]) -> list[Dataset]:
    """Items of Coding Scheme Identification Sequence (PS3.3 C.12.1) for schemes that only we know."""
    items = []
    for scheme in sorted({c.scheme for c in concepts if c.scheme.startswith("99")}):
        item = Dataset()
        item.CodingSchemeDesignator = scheme
        item.CodingSchemeName = "Private label codes of the models of this node"
        item.CodingSchemeResponsibleOrganization = "radnode"
        items.append(item)
    return items
