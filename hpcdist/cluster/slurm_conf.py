"""How the Slurm of a cluster is configured, as the text of its files. Nothing is run here."""

from __future__ import annotations

from pathlib import Path

from hpcdist.cluster.plan import HEAD, HEAD_ADDRESS, Equipment, Network

CONFIGURATION = """\
# A Slurm that runs as root on virtual hosts, made by `hpcdist cluster up --slurm`.
ClusterName={name}
SlurmctldHost={head}({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as credentials live, which is 120 s unless said otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.log
# Every host sees a file system of its own here; on a shared one, daemons would meet each other's files.
SlurmctldPidFile={private}/slurmctld.pid
SlurmdPidFile={private}/slurmd.pid
SlurmdSpoolDir={private}/slurmd
TmpFS={private}
# No cgroups: a job's processes are found by their parents, and nothing holds them to their cores and memory.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
PriorityType=priority/basic
# A dead host is noticed after 15 to 30 s, its jobs are run again on others, and it is taken back when it answers.
SlurmdTimeout=10
ReturnToService=2
JobRequeue=1
KillWait=10
# Jobs of the partition `urgent` take hosts away from jobs of `normal`. Those get the signal that they asked for with
# --signal, are ended after the grace time, and run again later.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# Hosts have what stands here, whatever the machine has.
SlurmdParameters=config_overrides
{gres_types}
NodeName=DEFAULT Sockets=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory={memory}{gres} State=UNKNOWN
{nodes}
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 DefaultTime=60 MaxTime=1440
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF DefaultTime=60 MaxTime=1440
"""

# A rank may pass the barrier at the end of MPI_Init so much sooner than another that its first message meets that one
# still inside, where Open MPI 5 over TCP crashes: with Slurm's own choice in one start of six, with a tree in three of
# four, with a ring in none of two hundred (8 ranks on 4 hosts, 2 cores).
MPI_CONF = "PMIxCollFence=ring\n"


def slurm_conf(name: str, network: Network, equipment: Equipment, folder: Path, memory: int) -> str:
    """The text of slurm.conf.

    Args:
        name: of the cluster.
        network: whose hosts are to be nodes.
        equipment: what Slurm is to think that each host has.
        folder: of the cluster; Slurm's own files are in `slurm` in it, each host's in its own `tmp` in it.
        memory: of a host [MiB].
    """
    return CONFIGURATION.format(
        name=name,
        head=HEAD,
        head_address=HEAD_ADDRESS,
        folder=folder / "slurm",
        private=folder / "tmp",
        cores=equipment.cores,
        memory=memory,
        gres_types="GresTypes=gpu" if equipment.gpus else "# no GPUs",
        gres=f" Gres=gpu:{equipment.gpus}" if equipment.gpus else "",
        nodes="\n".join(f"NodeName={host.name} NodeAddr={host.address}" for host in network.hosts),
    )


def gres_conf(equipment: Equipment, folder: Path) -> str:
    """The text of gres.conf, which names a device for each GPU; empty if there are none."""
    return "".join(f"Name=gpu File={device}\n" for device in gpu_devices(equipment, folder))


def gpu_devices(equipment: Equipment, folder: Path) -> list[Path]:
    """The devices that stand for the GPUs of a host, the same for all hosts."""
    return [folder / "slurm" / f"gpu{i}" for i in range(equipment.gpus)]
