"""What every result says of its making, and its way into a file."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from node import identity
from workers.results.contents import Provenance
from workers.results.subject import Subject
from workers.results.texts import fold, long_string
from workers.results.uids import IMPLEMENTATION_CLASS_UID

MANUFACTURER = identity.MANUFACTURER
DEVICE_MODEL = "radnode"


def stamp(dataset: Dataset, provenance: Provenance, subject: Subject) -> None:
    """Equipment, and every date and time of our own, in place of whatever is there."""
    moment = subject.local(provenance.created_at)
    day, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.InstanceCreationDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.ContentTime = time
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = DEVICE_MODEL
    dataset.DeviceSerialNumber = long_string(provenance.ae_title, subject.holds_unicode)
    dataset.SoftwareVersions = long_string(provenance.software_version, subject.holds_unicode)
    dataset.ContributingEquipmentSequence = Sequence([_algorithm(provenance, subject, f"{day}{time}")])


def _algorithm(provenance: Provenance, subject: Subject, moment: str) -> Dataset:
    model, unicode = provenance.model, subject.holds_unicode
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code_item("109102", "DCM", "Processing Equipment")])
    item.Manufacturer = long_string(model.manufacturer, unicode)
    item.ManufacturerModelName = long_string(model.name, unicode)
    item.SoftwareVersions = [long_string(model.version, unicode), long_string(provenance.software_version, unicode)]
    item.ContributionDateTime = moment
    item.ContributionDescription = fold(
        f"model {model.id}; weights-sha256={model.weights_digest}; bundle-sha256={model.bundle_digest}; "
        f"config-sha256={provenance.config_digest}",
        1024,
        unicode,
    )
    return item


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 section 8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def encode(dataset: Dataset, ae_title: str) -> bytes:
    """The whole file, Explicit VR Little Endian (PS3.10 section 7). Raw elements are written as they stand."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = "RADNODE"
    title = fold(ae_title.replace("\\", "/"), 16, unicode=False)
    meta.SourceApplicationEntityTitle = title
    dataset.file_meta = meta
    keep_raw(dataset)
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def keep_raw(dataset: Dataset) -> None:
    """Tell pydicom that raw elements already are in the encoding and character set they will be written in."""
    declared = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(False, True, convert_encodings(declared) if declared else default_encoding)
