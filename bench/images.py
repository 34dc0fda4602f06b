"""Generated images of the usual sizes, with noise as pixels and UIDs of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

_SIZES = {"CT": (512, 512), "CR": (2048, 2500)}
_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "CR": "1.2.840.10008.5.1.4.1.1.1"}


def make_images(kind: str, folder: Path, count: int) -> list[Path]:
    """Write a series of `count` images of 16 bits, CT of 0.5 MB or CR of 10 MB each; returns their paths."""
    folder.mkdir(parents=True)
    rows, columns = _SIZES[kind]
    pixels = np.random.default_rng(0).integers(0, 4096, (rows, columns), np.uint16).tobytes()
    image = _image(kind, rows, columns)
    image.PixelData = pixels
    made = []
    for number in range(1, count + 1):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.InstanceNumber = number
        made.append(folder / f"{number:05}.dcm")
        image.save_as(made[-1], enforce_file_format=True)
    return made


def _image(kind: str, rows: int, columns: int) -> Dataset:
    """What scanners usually send of patient, equipment and geometry: some sixty elements."""
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID = UID(_CLASSES[kind])
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260102"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "101112"
    image.AccessionNumber = "A-1"
    image.Modality = kind
    image.Manufacturer = "Bench"
    image.InstitutionName = "Nowhere"
    image.ReferringPhysicianName = "Nobody^Any"
    image.StationName = "ONE"
    image.StudyDescription = "bench"
    image.SeriesDescription = f"{kind} of noise"
    image.ManufacturerModelName = "Generator"
    image.PatientName = "Bench^Anna"
    image.PatientID = "B-1"
    image.PatientBirthDate = "19700101"
    image.PatientSex = "F"
    image.PatientAge = "055Y"
    image.BodyPartExamined = "CHEST"
    image.SliceThickness = "1.0"
    image.KVP = "120"
    image.DeviceSerialNumber = "1"
    image.SoftwareVersions = "1"
    image.ProtocolName = "bench"
    image.ReconstructionDiameter = "350"
    image.DistanceSourceToDetector = "1000"
    image.ExposureTime = "500"
    image.XRayTubeCurrent = "200"
    image.ConvolutionKernel = "B30"
    image.PatientPosition = "HFS"
    image.StudyInstanceUID = generate_uid()
    image.SeriesInstanceUID = generate_uid()
    image.StudyID = "1"
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.ImagePositionPatient = [0, 0, 0]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.FrameOfReferenceUID = generate_uid()
    image.SliceLocation = "0"
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.PixelSpacing = [0.7, 0.7]
    image.BitsAllocated = 16
    image.BitsStored = 12
    image.HighBit = 11
    image.PixelRepresentation = 0
    image.WindowCenter, image.WindowWidth = "2048", "4096"
    image.RescaleIntercept, image.RescaleSlope = "0", "1"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    return image
