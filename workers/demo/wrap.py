"""Makes the demonstration's DICOM files from published pictures: DX images of invented patients.

``python -m workers.demo.wrap PICTURES OUT`` writes the same bytes on every machine. The pictures, their authors and
licences are in `data/NOTICE`.
"""

from __future__ import annotations

import argparse
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
# Detectors for a chest are some 35 cm wide; the pictures come without a scale and (0018,1164) must have a value.
NOMINAL_FIELD_MM = 350.0
# View Position to CID 4010.
VIEW_CODES = {"AP": ("399348003", "antero-posterior"), "PA": ("272479007", "postero-anterior")}
IMPLEMENTATION = "2.25.119838257146383104958410823098724105321"


@dataclass(frozen=True)
class Picture:
    """One published picture and what is known of it. age and sex as DICOM writes them, "" where unknown."""

    name: str
    file: str
    view: str
    age: str
    sex: str
    patient: str
    published_as: str
    source: str


PICTURES = (
    Picture(
        name="child-pneumonia",
        file="kermany224/train_person690_bacteria_2587.jpg",
        view="AP",
        age="",
        sex="",
        patient="ONE",
        published_as="pneumonia",
        source="Kermany, Zhang, Goldbaum 2018, doi:10.17632/rscbjbr9sj, CC BY 4.0",
    ),
    Picture(
        name="child-normal",
        file="kermany224/train_IM-0216-0001.jpg",
        view="AP",
        age="",
        sex="",
        patient="TWO",
        published_as="normal",
        source="Kermany, Zhang, Goldbaum 2018, doi:10.17632/rscbjbr9sj, CC BY 4.0",
    ),
    Picture(
        name="adult-covid",
        file="ieee8023/41182_2020_203_Fig5_HTML.jpg",
        view="PA",
        age="044Y",
        sex="M",
        patient="THREE",
        published_as="COVID-19 pneumonia",
        source="Tropical Medicine and Health 2020, doi:10.1186/s41182-020-00203-0, figure 5, CC BY 4.0",
    ),
)


def wrap(picture: Picture, jpeg: Path) -> Dataset:
    """A DX image for presentation (PS3.3 A.26) that says it is derived demonstration data, as MONOCHROME2, 8 bits."""
    with Image.open(jpeg) as opened:
        pixels = np.asarray(opened.convert("L"))
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = uid(picture, "instance")
    meta.ImplementationClassUID = IMPLEMENTATION
    image = Dataset()
    image.file_meta = meta
    _identify(image, picture)
    _acquisition(image, picture, pixels.shape[1])
    _pixels(image, pixels, jpeg.stat().st_size)
    return image


def uid(picture: Picture, what: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) that depends on nothing but its arguments."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'radnode demo/{picture.name}/{what}').int}"


def _identify(image: Any, picture: Picture) -> None:
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = DX_FOR_PRESENTATION
    image.SOPInstanceUID = uid(picture, "instance")
    image.StudyInstanceUID = uid(picture, "study")
    image.SeriesInstanceUID = uid(picture, "series")
    image.PatientName = f"DEMO^{picture.patient}"
    image.PatientID = f"DEMO-{picture.patient}"
    image.PatientBirthDate = ""
    image.PatientSex = picture.sex
    if picture.age:
        image.PatientAge = picture.age
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "published without identity; all identifiers here are invented"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.AccessionNumber = f"DEMO-{picture.patient}"
    image.StudyID = "DEMO"
    image.ReferringPhysicianName = ""
    image.StudyDescription = "DEMO chest"
    image.SeriesDescription = f"DEMO chest {picture.view}, derived"
    image.Manufacturer = "radnode demo data"
    image.ManufacturerModelName = "wrapped picture"
    image.SeriesNumber = 1
    image.InstanceNumber = 1
    image.ImageComments = f"Demonstration, not for diagnosis. Published as: {picture.published_as}. {picture.source}"


def _acquisition(image: Any, picture: Picture, columns: int) -> None:
    image.Modality = "DX"
    image.PresentationIntentType = "FOR PRESENTATION"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = picture.view
    image.PatientOrientation = ["L", "F"]
    image.ImageLaterality = "U"
    image.AnatomicRegionSequence = [_code("816094009", "Chest")]
    view = _code(*VIEW_CODES[picture.view])
    view.ViewModifierCodeSequence = []
    image.ViewCodeSequence = [view]
    image.PositionerType = ""
    image.AcquisitionContextSequence = []
    image.DetectorType = ""
    spacing = f"{NOMINAL_FIELD_MM / columns:.4f}"
    image.ImagerPixelSpacing = [spacing, spacing]


def _pixels(image: Any, pixels: np.ndarray[Any, np.dtype[np.uint8]], jpeg_bytes: int) -> None:
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.DerivationDescription = "Picture of a publication, reduced and wrapped as DICOM; pixel spacing is nominal"
    image.LossyImageCompression = "01"
    image.LossyImageCompressionMethod = "ISO_10918_1"
    image.LossyImageCompressionRatio = f"{pixels.size / jpeg_bytes:.1f}"
    image.BurnedInAnnotation = "YES"  # side markers
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.PixelIntensityRelationship = "LOG"
    image.PixelIntensityRelationshipSign = -1
    image.RescaleIntercept = "0"
    image.RescaleSlope = "1"
    image.RescaleType = "US"
    image.PresentationLUTShape = "IDENTITY"
    image.WindowCenter = "128"
    image.WindowWidth = "256"
    data = pixels.tobytes()
    image.PixelData = data + b"\0" * (len(data) % 2)
    image["PixelData"].VR = "OB"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = meaning
    return item


def main() -> None:
    """Wrap every picture: `python -m workers.demo.wrap PICTURES OUT`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("pictures", type=Path, help="folder that holds the published pictures")
    parser.add_argument("out", type=Path, help="folder for the DICOM files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        image = wrap(picture, arguments.pictures / picture.file)
        image.save_as(arguments.out / f"{picture.name}.dcm", enforce_file_format=True)


if __name__ == "__main__":
    main()
