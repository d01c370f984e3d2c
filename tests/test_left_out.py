import re

from brainuad.faults import FAULTS, STAGES, counted, documentation, public
from conftest import ROOT

LIBRARY = ROOT / "scripts/brainuad"


def test_the_page_of_codes_is_made_of_the_catalogue():
    written = (ROOT / "docs/left_out.md").read_text()
    assert written == documentation(), "run: cd scripts && python -m brainuad.faults > ../docs/left_out.md"


def test_every_code_is_described_and_used():
    code = "".join(path.read_text() for path in LIBRARY.glob("*.py") if path.name != "faults.py")
    for name, fault in FAULTS.items():
        assert fault.code == name
        assert fault.stage in STAGES
        assert f'"{name}"' in code, f"nothing is ever left out for {name}"
    raised = re.findall(r'BadScan\(\s*"(\w+)"', code)
    assert raised
    assert set(raised) <= set(FAULTS)


def test_a_person_overrules_judgements_only():
    judged = {code for code, fault in FAULTS.items() if fault.judged}
    assert judged == {"no_affine", "sform_qform", "skull_stripped", "correlation", "overlap", "duplicate"}


def test_what_others_are_shown_names_no_file():
    assert public("unreadable", "/data/John/t1.nii cannot be read.") == FAULTS["unreadable"].meaning
    assert public("excluded", "By config/exclusions.tsv: moved.") == "By config/exclusions.tsv: moved."
    assert public("", "") == "left out"


def test_codes_are_counted_in_the_order_of_the_catalogue():
    assert counted(["overlap", "missing", "", "overlap"]) == {"missing": 1, "overlap": 2}
