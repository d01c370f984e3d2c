import numpy as np
import pandas as pd
import pytest

from brainuad.metrics import COLUMNS
from brainuad.paper_difference import COLUMNS as DIFFERENCE_COLUMNS
from brainuad.paper_difference import paper_difference
from brainuad.published import check_published
from conftest import ROOT

SETTINGS = {"study": "A <b>study</b>", "simulated": True, "models": {"rae": {"label": "Reverse AE", "floor": False}}}


@pytest.fixture
def written(tmp_path):
    """A function that writes one result, a printed table, and the page of their difference."""

    def compared(printed):
        row = {"dataset": "ixi", "model": "rae", "seed": 1, "metric": "ssim", "region": "frame", "pooling": "images"}
        row["subjects"] = 10_000
        rows = [{**row, "map": "reconstruction", "value": 0.5}, {**row, "region": "brain", "map": "reconstruction"}]
        pd.DataFrame(rows).reindex(columns=list(COLUMNS)).to_csv(tmp_path / "m.tsv", sep="\t", index=False)
        np.savez(tmp_path / "m.npz", replicates=np.linspace(0.4, 0.6, 200)[None].repeat(2, axis=0))
        (tmp_path / "printed.tsv").write_text(printed)
        table, page = tmp_path / "out/d.tsv", tmp_path / "out/d.html"
        paper_difference([tmp_path / "m.tsv"], [tmp_path / "m.npz"], tmp_path / "printed.tsv", table, page, SETTINGS)
        return pd.read_csv(table, sep="\t"), page.read_text()

    return compared


def test_each_printed_cell_stands_beside_ours(written):
    head = "model\tdataset\tmetric\tvalue\tnote\n"
    table, page = written(f"{head}rae\tixi\tssim\t0.58\t<script>\nrae\toasis3\tssim\t0.55\t\n")
    assert table.columns.tolist() == list(DIFFERENCE_COLUMNS)
    assert table["difference"].iloc[0] == pytest.approx(-0.08), "of the frame, as the paper"
    assert table["low"].iloc[0] == pytest.approx(0.405, abs=1e-3)
    assert table.loc[1, ["ours", "difference"]].isna().all(), "what we do not have is empty"
    assert "Reverse AE" in page
    assert "simulated" in page
    assert "<script>" not in page
    assert "A &lt;b&gt;study" in page


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("model\tdataset\tvalue\nrae\tixi\t0.5\n", "lacks the column 'metric'"),
        ("model\tdataset\tmetric\tvalue\tnote\nrae\tixi\tfid\t0.5\t\n", "'fid': known are ssim"),
        ("model\tdataset\tmetric\tvalue\tnote\nrae\tixi\tssim\thalf\t\n", "a `value` that is no number"),
        ("model\tdataset\tmetric\tvalue\tnote\n" + 2 * "rae\tixi\tssim\t0.5\t\n", "the cell rae, ixi, ssim twice"),
        ("", "cannot be read"),
    ],
)
def test_a_printed_table_that_does_not_fit_is_refused(written, printed, message):
    with pytest.raises(ValueError, match=message):
        written(printed)


def test_the_study_is_asked_for_the_printed_cells_before_anything_runs(tmp_path):
    path = tmp_path / "printed.tsv"
    path.write_text("model\tdataset\tmetric\tvalue\tnote\nrae\tixi\tssim\t0.5\t\nvqvae\toasis3\tssim\t0.5\t\n")
    assert check_published(path, ["rae", "vqvae"], ["ixi", "oasis3"]) == ""
    assert "this study has not vqvae, oasis3; the cells stay without ours" in check_published(path, ["rae"], ["ixi"])
    with pytest.raises(
        ValueError, match=r"no cell of .* is of a model and dataset of this study, which has not rae, ixi"
    ):
        check_published(path, ["vqvae"], ["hcp"])
    with pytest.raises(ValueError, match=r"comparison\.published: .*missing\.tsv cannot be read"):
        check_published(tmp_path / "missing.tsv", ["rae"], ["ixi"])


def test_cells_of_models_that_the_study_leaves_out_stay_without_ours(written):
    table, page = written("model\tdataset\tmetric\tvalue\tnote\nrae\tixi\tssim\t0.5\t\nunet\tixi\tssim\t0.6\t\n")
    assert table.set_index("model").loc["unet", ["ours", "low", "difference"]].isna().all()
    assert "unet" in page


def test_the_papers_table_2_is_as_printed():
    """Malé et al., Table 2: four models, SSIM of four datasets, AUROC and AUPRC of the synthetic one."""
    table = pd.read_csv(ROOT / "config/published/male.tsv", sep="\t")
    assert len(table) == 24
    values = table.pivot_table(index="model", columns=["dataset", "metric"], values="value")
    assert values.loc["rae", ("ixi", "ssim")] == 0.58
    assert values.loc["vqvae_transformer", ("hcp_synthetic", "average_precision")] == 0.74
    assert values["oasis3"]["ssim"].to_dict() == {
        "vqvae": 0.96,
        "swin_mae": 0.8,
        "rae": 0.55,
        "vqvae_transformer": 0.93,
    }
    assert table["note"].notna().all()
