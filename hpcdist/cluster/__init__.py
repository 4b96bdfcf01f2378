"""Virtual hosts on one Linux machine, each with its own name, network and processes, behind links of a chosen rate.

    hpcdist cluster up --hosts 8 --rate 200mbit
    hpcdist cluster run -n 8 -- hpcdist sweep --min-bytes 1MiB
    hpcdist cluster down

README.md beside this file says what the virtual network models and what it does not.

`plan` says what the network is to be, as commands; `namespaces` makes and ends namespaces; `state` is the file that
remembers a cluster; `slurm_conf` says how a Slurm on it is configured, and `slurm` starts it; `hosts` puts all of these
together; `launch` starts ranks and other commands; `command` is the command line.
"""
