"""What ``tests/slurm/cluster.py`` does when all does not go well; that it works the tests on Slurm show."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT


@pytest.fixture
def cluster(monkeypatch):
    specification = importlib.util.spec_from_file_location("cluster", ROOT / "tests/slurm/cluster.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    return module


@pytest.fixture
def without_slurm(cluster, monkeypatch):
    """Root of a Linux with an apt-get that installs nothing."""

    def provide():
        raise cluster.NoSlurm("apt-get could not install it")

    monkeypatch.setattr(cluster, "provide", provide)
    monkeypatch.setattr(cluster.sys, "platform", "linux")
    monkeypatch.setattr(cluster.os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("BRAINUAD_NO_SLURM", "")  # put back after the test
    monkeypatch.delenv("BRAINUAD_REQUIRE_SLURM", raising=False)
    return cluster


def test_without_slurm_the_tests_are_skipped_by_name(without_slurm, tmp_path):
    assert without_slurm.main(["sh", "-c", f'echo "$BRAINUAD_NO_SLURM" > {tmp_path}/reason']) == 0
    assert (tmp_path / "reason").read_text() == "apt-get could not install it\n"


def test_where_slurm_is_required_its_lack_is_a_failure(without_slurm, tmp_path, monkeypatch):
    assert "export BRAINUAD_REQUIRE_SLURM=1" in (ROOT / ".ci/run").read_text()
    monkeypatch.setenv("BRAINUAD_REQUIRE_SLURM", "1")
    assert without_slurm.main(["touch", f"{tmp_path}/ran"]) == 1
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(without_slurm.os, "geteuid", lambda: 1000)  # who could not have it
    assert without_slurm.main(["touch", f"{tmp_path}/ran"]) == 0


def test_a_controller_that_does_not_answer_is_not_waited_for(cluster, tmp_path, monkeypatch):
    class Daemon:
        ended = False

        def terminate(self):
            self.ended = True

        def wait(self, seconds=None):
            return 0

    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    made = cluster.Cluster(Path(tmp_path))
    made.daemons = {"munged": Daemon(), "slurmctld": Daemon()}
    monkeypatch.setattr(cluster.subprocess, "run", run)
    made.stop()
    assert all(daemon.ended for daemon in made.daemons.values())


def test_the_policy_against_services_does_not_outlive_a_killed_run(cluster, tmp_path, monkeypatch):
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(cluster, "POLICY", policy)
    with cluster.no_services_started():
        left = policy.read_text()
    assert left.endswith("exit 101\n")
    assert not policy.exists()
    policy.write_text(left)  # as SIGKILL leaves it
    cluster.remove_leftover()
    assert not policy.exists()
    policy.write_text("#!/bin/sh\nexit 101\n")  # somebody else's
    with cluster.no_services_started():
        pass
    cluster.remove_leftover()
    assert policy.exists()
