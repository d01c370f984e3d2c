"""Whether it is said that groups differ in site, age and sex, and never where they do not."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from brainuad.balance import COLUMNS, balance
from grouped import people


def rows(table):
    """The rows by variable."""
    parts = [table[table["group"] == name] for name in ("patient", "control")]
    found = {row["variable"]: row for row in balance(*parts, "patient", "control")}
    assert all(set(row) == set(COLUMNS) for row in found.values())
    return found


def test_nothing_is_said_of_groups_that_are_alike():
    assert not any(row["warning"] for row in rows(people(20, 20)).values())


def test_groups_of_different_scanners_are_confounded_with_them():
    table = people()
    table["site"] = table["group"].map({"patient": "clinic", "control": "university"})
    row = rows(table)["site"]
    assert row["difference"] == 1
    assert "patient and control share no site" in row["warning"]
    assert "nothing here can tell them apart" in row["warning"]


def test_sites_in_different_proportions_are_partly_confounded():
    table = people(20, 20)
    table["site"] = ["a"] * 16 + ["b"] * 4 + ["a"] * 5 + ["b"] * 15
    row = rows(table)["site"]
    assert "partly confounded" in row["warning"]
    assert row["p"] == pytest.approx(stats.fisher_exact([[5, 16], [15, 4]]).pvalue)
    assert row["difference"] == pytest.approx(16 / 20 - 5 / 20)
    table["site"] = ["a"] * 14 + ["b"] * 3 + ["c"] * 3 + ["a"] * 3 + ["b"] * 9 + ["c"] * 8
    row = rows(table)["site"]
    assert row["p"] == pytest.approx(stats.chi2_contingency([[3, 14], [9, 3], [8, 3]]).pvalue)


def test_small_cohorts_are_warned_of_shares_that_no_test_can_tell_apart():
    """Six and none against three and three have p = 0.18."""
    table = people(6, 6).assign(age="60")
    table["site"] = ["a", "b"] * 3 + ["a"] * 6
    table["sex"] = ["F", "M"] * 3 + ["F"] * 6
    found = rows(table)
    assert found["site"]["p"] > 0.05
    assert "partly confounded" in found["site"]["warning"]
    assert "differ in sex" in found["sex"]["warning"]
    table["site"], table["sex"] = ["a", "b"] * 6, ["F"] * 3 + ["M"] * 3 + ["F"] * 4 + ["M"] * 2
    assert not any(row["warning"] for row in rows(table).values()), "one in six is no matter"


def test_a_site_is_one_however_it_is_written():
    table = people(6, 6).assign(age="60", sex="F")
    table["site"] = ["Clinic"] * 6 + ["clinic "] * 6
    assert rows(table)["site"]["difference"] == 0
    assert not rows(table)["site"]["warning"]


def test_ages_and_sexes_are_compared():
    table = people(20, 20)
    table.loc[table["group"] == "patient", "age"] = [str(70 + index % 7) for index in range(20)]
    table.loc[table["group"] == "patient", "sex"] = ["f"] * 19 + ["M"]
    found = rows(table)
    assert "the former is older (72.8 ± 2.0 against 66.9 ± 5.3 years" in found["age"]["warning"]
    groups = [pd.to_numeric(table["age"][table["group"] == name]) for name in ("patient", "control")]
    assert found["age"]["p"] == pytest.approx(stats.ttest_ind(*groups, equal_var=False).pvalue)
    assert "differ in sex (F: 19, M: 1; F: 10, M: 10" in found["sex"]["warning"]


def test_what_is_not_known_is_said_to_be():
    table = people(6, 6).assign(age="n/a", sex="", site=np.nan)
    found = rows(table)
    assert "no sites are known" in found["site"]["warning"]
    assert "too few ages are known" in found["age"]["warning"]
    assert "it is not known" in found["sex"]["warning"]
    assert all(row["known"] == 0 and row["of"] == 12 for row in found.values())
    table = people(6, 6)
    table.loc[2:, "age"] = "unknown"
    assert rows(table)["age"]["known"] == 2


def test_all_of_one_age_are_alike():
    found = rows(people(6, 6).assign(age="30", sex="F", site="a"))
    assert not any(row["warning"] for row in found.values())
