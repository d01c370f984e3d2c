"""Files of scans, whole, odd and broken: each becomes a finite 3-D volume, or is refused by code and sentence."""

import gzip
import os

import nibabel
import numpy as np
import pandas as pd
import pytest

from brainuad.faults import FAULTS, BadScan
from brainuad.preprocessing import preprocess
from brainuad.reading import digest, read_lesion, read_scan


def save(array, path, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([3.0, 3, 3, 1]) if affine is None else affine), path)
    return path


def volume(shape=(60, 70, 60)):
    return np.indices(shape).sum(0).astype(np.float32)


def with_voxel(value):
    array = volume()
    array[5, 6, 7] = value
    return array


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.stack([volume()] * 2, -1), None, "4 axes"),
        (volume()[0], None, "2 axes"),
        (with_voxel(np.nan), None, "1 voxels that are NaN"),
        (with_voxel(np.inf), None, "1 voxels that are NaN"),
        (np.zeros((60, 60, 60), np.float32), None, "0 in every voxel"),
        (np.full((60, 60, 60), 7, np.float32), None, "7 in every voxel"),
        (volume(), np.diag([3000.0, 3, 3, 1]), "voxels of 3e\\+03 x 3 x 3 mm"),
        (volume((20, 60, 60)), None, "field of view of 60 x 180 x 180 mm"),
    ],
)
def test_implausible_scans_are_refused_by_name(tmp_path, array, affine, message):
    path = save(array, tmp_path / "scan.nii", affine)
    with pytest.raises(ValueError, match=f"scan.nii .*{message}.*: .+"):
        read_scan(path)


def test_a_singular_affine_is_refused(tmp_path):
    path = save(volume(), tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    content[280:296] = bytes(16)  # srow_x of the NIfTI header
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scan\.nii has an affine that cannot be inverted"):
        read_scan(path)


def test_unreadable_files_are_refused_by_name(tmp_path):
    whole = save(volume(), tmp_path / "whole.nii")
    (tmp_path / "short.nii").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "packed.nii.gz").write_bytes(gzip.compress(b"no image"))
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    nibabel.save(nibabel.MGHImage(volume(), np.eye(4)), tmp_path / "scan.mgz")
    for name in ("short.nii", "text.nii.gz", "packed.nii.gz", "empty.nii.gz", "scan.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_scan(tmp_path / name)
    with pytest.raises(ValueError, match=r"scan\.mgz is not a NIfTI"):
        read_scan(tmp_path / "scan.mgz")


def test_more_voxels_than_a_job_has_memory_for_are_refused_by_the_header(tmp_path):
    """The files hold no voxel: nothing is read of them before they are refused."""
    for shape in ((512, 512, 512), (512, 512, 513)):
        header = nibabel.Nifti1Header()
        header.set_data_shape(shape)
        header.set_data_dtype(np.int16)
        header.set_sform(np.diag([0.5, 0.5, 0.5, 1]), code=1)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        (tmp_path / f"{shape[2]}.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(BadScan, match=r"513\.nii has .* more than 512 x 512 x 512.*: resample it") as fault:
        read_scan(tmp_path / "513.nii")
    assert fault.value.code == "dimensions"
    with pytest.raises(BadScan) as fault:
        read_scan(tmp_path / "512.nii")
    assert fault.value.code == "unreadable", "it is of a size to be read"


def test_a_trailing_axis_and_a_few_negative_voxels_are_forgiven(tmp_path):
    array = with_voxel(-2)
    scan = read_scan(save(array[..., None], tmp_path / "scan.nii.gz"))
    assert scan.shape == array.shape
    assert np.array_equal(scan.get_fdata(), array.clip(0))
    standardised = read_scan(save(array - 90, tmp_path / "z.nii.gz"))
    assert np.array_equal(standardised.get_fdata(), array + 2)


@pytest.mark.parametrize("air", [0, 10, 40])
def test_a_standardised_brain_keeps_its_dark_half_however_much_air_is_around_it(tmp_path, air, rng):
    brain = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0) < 25
    array = np.zeros(brain.shape, np.float32)
    array[brain] = rng.normal(size=brain.sum())
    padded = np.pad(array, air)
    scan = read_scan(save(padded, tmp_path / "z.nii.gz")).get_fdata()
    assert scan.min() == 0
    assert np.allclose(scan - scan.max(), padded - padded.max(), atol=1e-5), "moved, not cut"


def test_a_path_that_cannot_be_looked_at_is_a_bad_scan(tmp_path, monkeypatch):
    with pytest.raises(BadScan, match=r"x\.nii cannot be read \(File name too long\): copy") as error:
        read_scan(tmp_path / ("x" * 300 + ".nii"))
    assert error.value.code == "unreadable"
    path, look = save(volume(), tmp_path / "locked.nii"), os.stat

    def refuse(name, **options):
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied")
        return look(name, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(BadScan, match=r"locked\.nii cannot be read \(you may not read it\)"):
        read_scan(path)


def test_lesions_must_lie_on_the_scans_grid(tmp_path):
    scan = read_scan(save(volume(), tmp_path / "scan.nii.gz"))
    with pytest.raises(ValueError, match=r"small\.nii\.gz is a lesion mask of .* another grid"):
        read_lesion(save(volume((50, 70, 60)), tmp_path / "small.nii.gz"), scan)
    with pytest.raises(ValueError, match=r"moved\.nii\.gz is a lesion mask of .* another grid"):
        read_lesion(save(volume(), tmp_path / "moved.nii.gz", np.diag([-3.0, 3, 3, 1])), scan)
    labels = read_lesion(save((volume() % 3).astype(np.uint8), tmp_path / "labels.nii.gz"), scan)
    assert np.array_equal(labels.get_fdata(), volume() % 3 > 0)


def test_doubts_are_a_persons_to_decide(tmp_path):
    image = nibabel.Nifti1Image(volume(), np.diag([3.0, 3, 3, 1]))
    image.set_sform(image.affine, code=1)
    image.set_qform(np.diag([-3.0, -3, 3, 1]), code=1)
    nibabel.save(image, tmp_path / "forms.nii")
    with pytest.raises(BadScan, match=r"contradict each other") as fault:
        read_scan(tmp_path / "forms.nii")
    assert fault.value.code == "sform_qform"
    assert np.array_equal(read_scan(tmp_path / "forms.nii", include=True).affine, image.affine)


def test_a_digest_knows_a_scan_in_whatever_form_it_is_stored(tmp_path):
    whole = np.round(volume())
    one = digest(read_scan(save(whole, tmp_path / "scan.nii.gz")))
    stored = nibabel.Nifti1Image(whole.astype(np.int16), np.diag([3.0, 3, 3, 1]))
    nibabel.save(stored.as_reoriented([[0, -1], [2, 1], [1, -1]]), tmp_path / "turned.nii")
    assert digest(read_scan(tmp_path / "turned.nii")) == one
    assert digest(read_scan(save(whole[::-1], tmp_path / "mirrored.nii"))) != one
    whole[3, 3, 3] += 1
    assert digest(read_scan(save(whole, tmp_path / "other.nii"))) != one


# A set of some 300 broken or odd files: small volumes of large voxels, so that all of them take seconds.

SHAPE, SIZE = (20, 24, 22), 5.0  # voxels, mm
READ = {""}  # in place of codes: the file is read, and its voxels are those that were saved
TYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)
KNOWN = set(FAULTS) | READ


def truth():
    """Whole numbers from 0 to 63, so that every type holds them."""
    return (np.indices(SHAPE).sum(0) % 64).astype(np.uint8)


def base(dtype=np.int16, kind=nibabel.Nifti1Image, shape=SHAPE):
    image = kind(truth().reshape(shape).astype(dtype), np.diag([SIZE, SIZE, SIZE, 1.0]), dtype=dtype)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    return image


def patched(field, value, index=None):
    """A file as bytes whose header has another value in a field, of the same type."""
    plain = base().to_bytes()
    header = nibabel.Nifti1Header(plain[:348]).structarr.copy()
    if index is None:
        header[field] = value
    else:
        header[field][index] = value
    return header.tobytes() + plain[348:]


def damaged(rng):
    """Cut, flipped and overwritten files: name → bytes and the codes that may follow."""
    plain = base().to_bytes()
    packed = gzip.compress(plain)
    for number in range(30):
        yield f"cut{number}.nii", plain[: rng.integers(0, len(plain))], {"unreadable"}
        yield f"cut{number}.nii.gz", packed[: rng.integers(0, len(packed))], {"unreadable"}
        flipped = bytearray(packed)
        flipped[rng.integers(len(packed))] ^= 1 << rng.integers(8)
        yield f"flip{number}.nii.gz", bytes(flipped), {"unreadable", ""}
    for number in range(80):
        overwritten = bytearray(plain)
        at = rng.integers(0, 344)
        overwritten[at : at + rng.integers(1, 5)] = rng.bytes(4)
        yield f"header{number}.nii", bytes(overwritten[: len(plain)]), None
    yield "garbage.nii.gz", gzip.compress(rng.bytes(5000)), {"unreadable"}
    yield "garbage.nii", rng.bytes(5000), {"unreadable"}
    yield "twice.nii.gz", gzip.compress(packed), {"unreadable"}
    yield "tail.nii.gz", packed + b"and more", {"unreadable"}
    yield "named_packed.nii.gz", plain, {"unreadable"}
    yield "named_plain.nii", packed, {"unreadable"}
    yield "text.nii", b"subject,t1w\n" * 100, {"unreadable"}
    yield "empty.nii", b"", {"unreadable"}
    yield "empty.nii.gz", b"", {"unreadable"}
    yield "picture.png", b"\x89PNG\r\n" + rng.bytes(500), {"unreadable"}


def odd_headers():
    """Fields of the header with values that no scan has."""
    for code in (-1, 0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999):
        yield (
            f"datatype{code}.nii",
            patched("datatype", code),
            READ if code == 4 else {"format", "unreadable"} if code != 512 else None,
        )
    for code in (-1, 0, 1, 2, 4, 5, 7, 8):
        yield f"dim0_{code}.nii", patched("dim", code, 0), {"", "dimensions", "unreadable"}
    for value in (-1, 0, 1, 32767):
        refused = {"dimensions", "unreadable", "field_of_view"}
        yield f"dim1_{value}.nii", patched("dim", value, 1), refused
    yield "dim_all.nii", patched("dim", 32767, slice(1, 4)), {"dimensions"}
    for value in (np.nan, np.inf, -1.0, 0.0, 100.0, 352.5, 1e9, 3e38):
        yield f"offset{value}.nii", patched("vox_offset", value), {"unreadable"}
    for value in (np.nan, np.inf, 0.0, 2.0):
        yield f"slope{value}.nii", patched("scl_slope", value), READ if value != 2 else None
    yield "slope_huge.nii", patched("scl_slope", 3e38), {"non_finite"}
    yield "slope_negative.nii", patched("scl_slope", -1.0), None
    yield "magic.nii", patched("magic", b"n+7"), {"unreadable"}
    yield "sizeof.nii", patched("sizeof_hdr", 0), READ
    yield "intent.nii", patched("intent_code", 1007), READ
    for value in (np.nan, np.inf, 0.0, -5.0, 1e30, 1e-30):
        yield f"pixdim{value}.nii", patched("pixdim", value, 1), READ if value == -5 else {"sform_qform"}
    for value in (np.nan, np.inf, 0.0, 1e30, 1e-30):
        refused = {"affine", "voxel_size", "sform_qform"}
        yield f"srow{value}.nii", patched("srow_x", [value, 0, 0, 0]), refused
    yield "quaternion.nii", patched("quatern_b", 7.0), {"sform_qform"}
    yield "quaternion_nan.nii", patched("quatern_c", np.nan), {"sform_qform"}


def odd_images():
    """Whole files of what is no scan, or a scan in an unusual form: name → image and codes."""
    for dtype in TYPES:
        yield f"type_{np.dtype(dtype).name}.nii.gz", base(dtype), READ
        yield f"pair_{np.dtype(dtype).name}.img", base(dtype, nibabel.Nifti1Pair), READ
        yield f"second_{np.dtype(dtype).name}.nii", base(dtype, nibabel.Nifti2Image), READ
    for dtype in (np.complex64, np.complex128):
        yield f"type_{np.dtype(dtype).name}.nii", base(dtype), {"format"}
    for letters in ("RGB", "RGBA"):
        colours = np.zeros(SHAPE, [(letter, np.uint8) for letter in letters])
        yield f"{letters}.nii", nibabel.Nifti1Image(colours, base().affine), {"format"}
    yield "analyze.img", nibabel.AnalyzeImage(truth().astype(np.int16), base().affine), {"format"}
    yield "spm.img", nibabel.Spm2AnalyzeImage(truth().astype(np.int16), base().affine), {"format"}
    yield "scan.mgz", nibabel.MGHImage(truth(), base().affine), {"format"}
    swapped = nibabel.Nifti1Image(truth().astype(">i2"), base().affine, base().header.as_byteswapped())
    yield "swapped.nii.gz", swapped, READ
    yield "packed.nii.bz2", base(), READ
    for shape, codes in (((*SHAPE, 1), READ), ((*SHAPE, 1, 1), READ), ((1, *SHAPE), {"dimensions"})):
        yield f"shape{len(shape)}{shape[0]}.nii", base(shape=shape), codes
    affine = base().affine
    for shape in ((20,), (20, 24), (*SHAPE, 3), (*SHAPE, 1, 3), (20, 24, 1)):
        image = nibabel.Nifti1Image(np.ones(shape, np.float32), affine)
        yield f"axes{'x'.join(map(str, shape))}.nii", image, {"dimensions"}
    for name, value in (
        ("huge", 3e38),
        ("minus_huge", -3e38),
        ("nan", np.nan),
        ("inf", np.inf),
        ("minus_inf", -np.inf),
        ("beyond", 1e300),
    ):
        array = truth().astype(np.float64)
        array[3, 4, 5] = value
        yield f"{name}.nii.gz", nibabel.Nifti1Image(array, affine), {"non_finite"}
    for value in (0, 7):
        yield f"constant{value}.nii", nibabel.Nifti1Image(np.full(SHAPE, value, np.int16), affine), {"constant"}
    for size in (0.001, 0.1, 50, 3000):
        yield f"voxels{size}.nii", nibabel.Nifti1Image(truth(), np.diag([size, 5, 5, 1])), {"voxel_size"}
    for size in (1.0, 3.0):
        yield f"view{size}.nii", nibabel.Nifti1Image(truth(), np.diag([size, size, size, 1])), {"field_of_view"}
    flat = affine.copy()
    flat[:3, 1] = flat[:3, 0] + [0, 0.5, 0]
    yield "nearly_flat.nii", nibabel.Nifti1Image(truth(), flat), {"affine"}
    yield from odd_orientations()


def odd_orientations():
    """Sforms and qforms that are missing, differ a little or contradict each other."""
    turned = nibabel.affines.from_matvec(np.diag([-SIZE, -SIZE, SIZE]))
    tilted = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(x=0.4) * SIZE)
    nearly = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(x=0.02) * SIZE, [50, 20, 10])
    for name, qform, sform_code, qform_code, codes in (
        ("none", turned, 0, 0, {"no_affine"}),
        ("turned", turned, 1, 1, {"sform_qform"}),
        ("turned_elsewhere", turned, 4, 1, {"sform_qform"}),
        ("mirrored", np.diag([-1, 1, 1, 1]) @ base().affine, 4, 1, {"sform_qform"}),
        ("tilted", tilted, 1, 1, {"sform_qform"}),
        ("tilted_elsewhere", tilted, 4, 1, READ),
        ("nearly", nearly, 1, 1, READ),
        ("unused", turned, 1, 0, READ),
    ):
        image = base()
        image.set_qform(qform, code=qform_code)
        image.set_sform(base().affine, code=sform_code)
        yield f"forms_{name}.nii", image, codes


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The folder of all those files; name → the codes that may follow, None for any."""
    folder, expected = tmp_path_factory.mktemp("odd"), {}
    rng = np.random.default_rng(20261124)
    for name, content, codes in (*damaged(rng), *odd_headers()):
        (folder / name).write_bytes(content)
        expected[name] = codes
    for name, image, codes in odd_images():
        nibabel.save(image, folder / name)
        expected[name] = codes
    (folder / "alone.img").write_bytes(b"0" * 100)
    (folder / "folder.nii").mkdir()
    return folder, {**expected, "alone.img": {"unreadable"}, "folder.nii": {"missing"}, "gone.nii": {"missing"}}


def outcome(path):
    """The code of a file, empty for one that was read, and what else there is to see."""
    try:
        return "", read_scan(path)
    except BadScan as fault:
        return fault.code, str(fault)


def test_odd_files_are_read_right_or_refused_by_code_and_sentence(odd):
    folder, expected = odd
    assert len(expected) >= 200
    wrong = {}
    for name, codes in expected.items():
        code, found = outcome(folder / name)
        if code not in (KNOWN if codes is None else codes):
            wrong[name] = f"{code or 'read'} in place of {codes}"
        elif code:
            assert "\n" not in found
            assert found.startswith(str(folder / name))
            assert found.endswith("."), found
        else:
            array = found.get_fdata()
            assert array.ndim == 3
            assert np.isfinite(array).all()
            assert array.min() >= 0
            assert codes is None or np.array_equal(array, truth()), name
    assert not wrong


def test_no_odd_file_stops_or_breaks_a_job(odd, tmp_path, capfd):
    """Those that are refused, through the job itself: a row each, and nothing in the log that looks like a crash."""
    folder, expected = odd
    refused = [name for name in expected if outcome(folder / name)[0]]
    assert len(refused) > 200
    scans = [{"scan": f"sub-{number}", "t1w": str(folder / name)} for number, name in enumerate(refused)]
    preprocess(scans, tmp_path, tmp_path / "table.tsv", settings={"resolution": 4.0})
    table = pd.read_csv(tmp_path / "table.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert len(table) == len(refused)
    assert set(table["status"]) == {"excluded"}
    assert set(table["code"]) <= {code for code, fault in FAULTS.items() if fault.stage == "reading"}
    assert table["reason"].str.startswith(str(folder)).all()
    assert "Traceback" not in "".join(capfd.readouterr())
