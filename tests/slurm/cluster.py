"""A real Slurm on one machine, for the time of one command: ``python tests/slurm/cluster.py COMMAND ...``.

Brings up munge, MariaDB, slurmdbd, slurmctld and slurmd under a temporary folder, runs the command with
``SLURM_CONF`` pointing there, and stops what it started, by its ids. GPUs are feigned by clones of ``/dev/null``;
the node claims more CPUs and memory than the machine has, because the jobs of the tests mostly wait. Where that cannot
be done the command runs all the same, with the reason in ``BRAINUAD_NO_SLURM``: the tests then skip themselves by name.
Only with ``BRAINUAD_REQUIRE_SLURM=1``, as in CI, a user root who has apt-get must get one: else this program fails.

Nothing outside the temporary folder is written, but for Debian's packages where they are missing. No Slurm is touched
that this program did not start: ports are free ones, and jobs find their Slurm by the environment alone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server")
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
POLICY, MARK = Path("/usr/sbin/policy-rc.d"), "Of brainuad's tests/slurm/cluster.py while it installs; may be deleted."
os.environ["PATH"] += os.pathsep + "/usr/sbin"

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also what a requeued job waits before it starts again (120 s by default).
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MpiDefault=none
# Without cgroups: works in containers and small virtual machines.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
# A node that a test lets fail stays down until the test repairs it.
ReturnToService=0
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
DefMemPerCPU=256
JobRequeue=1
# A job is as nice as who submits it: the study's many jobs give way to the trainings, whose walltimes are short.
PropagatePrioProcess=1
KillWait=5
OverTimeLimit=0
# Seconds until squeue forgets an ended job, which it looks for once a minute: sacct alone knows it then.
MinJobAge=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
# As on most clusters with accounts: accounts and their limits count.
AccountingStorageEnforce=associations,limits,qos
# A job that takes more memory than it asked for is killed, as it would be by cgroups.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill,UsePss
JobAcctGatherFrequency=task=1
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=256000 \
    Gres=gpu:v100:2,gpu:a100:1,gpu:t4:16,gpu:l4:1
# Two more slurmd of the same machine, for the tests in which a node fails.
NodeName=frail1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[4]} CPUs=8 RealMemory=64000 Gres=gpu:k80:1
NodeName=frail2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[5]} CPUs=8 RealMemory=64000 Gres=gpu:k80:1
# And two that one job may have together, each under a name that processes on them know, as those of a cluster's nodes.
NodeName=pair1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[6]} CPUs=8 RealMemory=64000 Gres=gpu:p100:1
NodeName=pair2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[7]} CPUs=8 RealMemory=64000 Gres=gpu:p100:1
PartitionName=cpu Nodes={host} Default=YES DefaultTime=10 PriorityTier=1 PreemptMode=OFF State=UP
PartitionName=gpu Nodes={host} DefaultTime=10 PriorityTier=1 PreemptMode=OFF State=UP
PartitionName=frail1 Nodes=frail1 DefaultTime=10 State=UP
PartitionName=frail2 Nodes=frail2 DefaultTime=10 State=UP
PartitionName=pair Nodes=pair[1-2] DefaultTime=10 State=UP
# Takes jobs that it will never start.
PartitionName=short Nodes={host} MaxTime=5 State=UP
PartitionName=spare Nodes={host} DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=8 State=UP
PartitionName=fleeting Nodes={host} DefaultTime=10 PriorityTier=1 PreemptMode=CANCEL GraceTime=8 State=UP
PartitionName=urgent Nodes={host} DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
"""

GRES_CONF = """\
AutoDetect=off
NodeName={host} Name=gpu Type=v100 File={folder}/gpu[0-1]
NodeName={host} Name=gpu Type=a100 File={folder}/gpu2
NodeName={host} Name=gpu Type=t4 File={folder}/gpu[3-18]
NodeName={host} Name=gpu Type=l4 File={folder}/gpu23
NodeName=frail1 Name=gpu Type=k80 File={folder}/gpu19
NodeName=frail2 Name=gpu Type=k80 File={folder}/gpu20
NodeName=pair1 Name=gpu Type=p100 File={folder}/gpu21
NodeName=pair2 Name=gpu Type=p100 File={folder}/gpu22
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[2]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[3]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""

# Snakemake's job step starts srun without any SLURM_* variable: srun then looks into /etc/slurm, which is not ours.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


class NoSlurm(Exception):
    """Slurm cannot be started here; the message says why."""


class Cluster:
    """The daemons, by name, and the folder of everything they write."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, {}
        self.host = socket.gethostname().split(".")[0]
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(8)]
            self.ports = [listener.getsockname()[1] for listener in sockets]

    def start(self) -> None:
        """Bring everything up, in the order in which one needs the other."""
        self.configure()
        self.daemon("munged", *self.munge_arguments(), ready=lambda: (self.folder / "munge.socket").exists())
        self.start_database()
        self.daemon("slurmdbd", "-D", ready=succeeds("sacctmgr", "-n", "show", "cluster"))
        known = [("cluster", "test"), ("account", "project"), ("qos", "long")]
        known += [("qos", "narrow", "MaxSubmitJobsPerUser=1"), ("user", "root", "account=project")]
        for entity in known:
            subprocess.run(["sacctmgr", "-i", "add", *entity], stdout=subprocess.DEVNULL, check=True)
        allow = ["sacctmgr", "-i", "modify", "user", "root", "set", "qos=normal,long,narrow", "defaultqos=normal"]
        subprocess.run(allow, stdout=subprocess.DEVNULL, check=True)
        self.daemon("slurmctld", "-D", ready=succeeds("scontrol", "ping"))
        for node in (self.host, "frail1", "frail2"):
            (self.folder / "spool" / node).mkdir()
            self.daemon("slurmd", "-D", "-N", node, name=f"slurmd of {node}", ready=partial(self.is_up, node))
        self.start_pair()

    def start_pair(self) -> None:
        """Bring up the nodes of one job, where they alone see a list of hosts with their names in it."""
        hosts = self.folder / "hosts"
        hosts.write_text(Path("/etc/hosts").read_text() + "127.0.0.1 pair1 pair2\n")
        private = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
        if subprocess.run([*private, "true"], check=False).returncode:
            os.environ["BRAINUAD_NO_PAIR"] = "nodes with names of their own need the right to mount"
            return
        for node in ("pair1", "pair2"):
            (self.folder / "spool" / node).mkdir()
            command = [*private, "slurmd", "-D", "-N", node]
            self.daemon(*command, name=f"slurmd of {node}", ready=partial(self.is_up, node))

    def configure(self) -> None:
        """Write the configuration, the key of munge and the feigned GPUs."""
        values = {"folder": self.folder, "host": self.host, "ports": self.ports, "srun": shutil.which("srun")}
        files = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "slurmdbd.conf": SLURMDBD_CONF, "bin/srun": SRUN}
        for name in ("bin", "state", "spool", "database"):
            (self.folder / name).mkdir()
        for name, text in files.items():
            (self.folder / name).write_text(text.format(**values))
        (self.folder / "slurmdbd.conf").chmod(0o600)
        (self.folder / "bin/srun").chmod(0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        try:
            for number in range(24):  # a GPU's file must be a character device, or CUDA_VISIBLE_DEVICES stays empty
                os.mknod(self.folder / f"gpu{number}", 0o20666, os.makedev(1, 3))
        except OSError as error:
            raise NoSlurm(f"device files for feigned GPUs cannot be made here ({error})") from None
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        os.environ["BRAINUAD_FEIGNED_GPUS"] = "1"  # jobs inherit it; without it one that was given a GPU would insist
        os.environ["BRAINUAD_TEST_SLURM"] = "ours"  # SLURM_CONF alone might be a real cluster's
        os.environ["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def munge_arguments(self) -> list[str]:
        """A munge of our own; --force because the folder above is writable to all."""
        paths = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        files = [f"--{option}={self.folder / name}" for option, name in paths.items()]
        return ["--foreground", "--force", f"--log-file={self.folder / 'munge.log'}", *files]

    def start_database(self) -> None:
        """A MariaDB of our own with an empty database for slurmdbd."""
        data, client = self.folder / "database", self.folder / "database.socket"
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"]
        with (self.folder / "install-db.log").open("w") as log:
            command = [*install, "--auth-root-authentication-method=normal"]
            subprocess.run(command, stdout=log, stderr=log, check=True)
        options = {"datadir": data, "socket": client, "port": self.ports[3], "bind-address": "127.0.0.1"}
        options |= {"pid-file": self.folder / "database.pid", "innodb-buffer-pool-size": "64M"}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        sql = ["mariadb", "--no-defaults", "-uroot", "-S", str(client), "-e"]
        self.daemon("mariadbd", "--no-defaults", "--user=root", *arguments, ready=succeeds(*sql, "select 1"))
        create = "CREATE DATABASE slurm_acct_db; CREATE USER slurm@'%' IDENTIFIED BY 'slurm'; "
        subprocess.run([*sql, create + "GRANT ALL ON slurm_acct_db.* TO slurm@'%'"], check=True)

    def daemon(self, program: str, *arguments: str, ready, name: str = "") -> None:
        """Start a daemon that ends with this program, and wait until it answers."""
        name = name or program
        with (self.folder / f"{name}.log").open("w") as log:
            command = ["setpriv", "--pdeathsig", "TERM", program, *arguments]
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not ready():
            if self.daemons[name].poll() is not None or time.monotonic() > end:
                last = (self.folder / f"{name}.log").read_text()[-2000:]
                raise RuntimeError(f"{name} did not come up; the end of its log:\n{last}")
            time.sleep(0.1)

    def is_up(self, node: str) -> bool:
        """Whether a node takes jobs."""
        command = ["sinfo", "-h", "-N", "-n", node, "-o", "%t"]
        return "idle" in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()

    def stop(self) -> None:
        """End all jobs, then the daemons in reverse order, then whatever the jobs left behind."""
        if "slurmctld" in self.daemons:
            self.end_jobs()
        for process in reversed(self.daemons.values()):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self.left_behind():
            print(f"still running after its job, ended now: {' '.join(process.cmdline())[:100]}", file=sys.stderr)
            process.kill()

    def end_jobs(self, seconds: float = 60) -> None:
        """End all jobs, as far as the controller answers in time: what it leaves is ended after it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "--user=root"], check=False, timeout=seconds)
            end = time.monotonic() + seconds / 4
            while time.monotonic() < end:
                if not subprocess.run(["squeue", "-h"], capture_output=True, check=False, timeout=seconds).stdout:
                    break
                time.sleep(0.5)

    def left_behind(self) -> list[psutil.Process]:
        """Processes that were started with our Slurm in their environment; without cgroups Slurm may miss some."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("SLURM_CONF") == str(self.folder / "slurm.conf")
                if ours and process.pid != os.getpid():
                    found.append(process)
        return found


def succeeds(*command: str):
    """A question: does this command succeed?"""
    return lambda: subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def provide() -> None:
    """Install Debian's packages where programs are missing.

    Raises:
        NoSlurm: this machine is not Linux, the user not root, or the packages cannot be had.
    """
    if sys.platform != "linux":
        raise NoSlurm("Slurm needs Linux")
    if os.geteuid() != 0:
        raise NoSlurm("starting slurmd needs root")
    remove_leftover()
    if all(map(shutil.which, PROGRAMS)):
        return
    if shutil.which("apt-get") is None:
        raise NoSlurm(f"{', '.join(PROGRAMS)} are not all installed, and there is no apt-get to install them with")
    with no_services_started(), tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-q", *command], stdout=log, stderr=log, check=False, env=environment)
        if done.returncode or not all(map(shutil.which, PROGRAMS)):
            log.seek(0)
            raise NoSlurm(f"apt-get could not install {' '.join(PACKAGES)}: {log.read().strip().splitlines()[-1]}")


@contextlib.contextmanager
def no_services_started():
    """Keep Debian from starting the daemons that are installed: ours are started by us."""
    if POLICY.exists() and MARK not in POLICY.read_text():  # somebody else's, who wants the same
        yield
        return
    try:
        POLICY.write_text(f"#!/bin/sh\n# {MARK}\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def remove_leftover() -> None:
    """Remove the policy of an earlier run that was killed while it installed: no service would ever start again."""
    with contextlib.suppress(OSError):
        if MARK in POLICY.read_text():
            POLICY.unlink()


def is_required() -> bool:
    """Whether to fail without a Slurm: BRAINUAD_REQUIRE_SLURM is set, and this machine is one that could have it."""
    able = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get")
    return bool(able and os.environ.get("BRAINUAD_REQUIRE_SLURM"))


def main(command: list[str]) -> int:
    """Run a command beside a Slurm, or with the reason why there is none."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        try:
            provide()
            began = time.monotonic()
            cluster.start()
            print(
                f"Slurm is up after {time.monotonic() - began:.1f} s: SLURM_CONF={os.environ['SLURM_CONF']}", flush=True
            )
        except NoSlurm as reason:
            print(f"No Slurm here: {reason}.", flush=True)
            if is_required():
                return 1
            os.environ["BRAINUAD_NO_SLURM"] = str(reason)
        return subprocess.run(command, check=False).returncode
    finally:
        cluster.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
