"""The bound on starts of a training that get no further."""

import os

import pytest

from brainuad.starts import FruitlessStartsError, count_start


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin the training once more, in a job of Slurm."""

    def count(job, restart, nodes="n1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
        count_start(tmp_path / "submitit/starts.json", tmp_path / "checkpoint.pt", job)

    (tmp_path / "submitit").mkdir()
    return count


def test_three_starts_without_a_checkpoint_are_enough(tmp_path, begin):
    begin("7", 0)
    begin("7", 1, nodes="n[2-3]")
    begin("8", 0)
    with pytest.raises(FruitlessStartsError) as error:
        begin("8", 1)
    for words in (
        "started 3 times in a row without getting further than its beginning",
        "job 7, restart 1, on n[2-3], 20",
        f"{tmp_path}/submitit/7_0_log.out, {tmp_path}/submitit/8_0_log.out and `sacct --duplicates --jobs=7,8`",
        "--exclude=n1,n[2-3]",
        "training.checkpoint_every",
    ):
        assert words in str(error.value)
    with pytest.raises(FruitlessStartsError):  # also in the next start
        begin("8", 2)


def test_starts_that_get_further_do_not_count(tmp_path, begin):
    for restart in range(12):
        begin("7", restart)
        if restart % 3 == 2:
            time_ns = 10**18 + restart
            (tmp_path / "checkpoint.pt").touch()
            os.utime(tmp_path / "checkpoint.pt", ns=(time_ns, time_ns))
    for restart in (12, 13, 14):
        begin("7", restart)
    with pytest.raises(FruitlessStartsError, match=r"further than its checkpoint of 2001-09-0\d"):
        begin("7", 15)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoint": 0}'])
def test_a_file_that_a_crash_has_spoilt_is_begun_anew(tmp_path, begin, text):
    (tmp_path / "submitit/starts.json").write_text(text)
    for restart in range(3):
        begin("7", restart)
    with pytest.raises(FruitlessStartsError):
        begin("7", 3)
