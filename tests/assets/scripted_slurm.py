"""Slurm's commands on one machine, without queue or cluster: each job starts at once, in the background.

A folder keeps what Slurm would: each job's number, process, state and the arguments it was queued with. So a test sees
what was asked for, and may end a job as Slurm would.
"""

import os
import stat
import sys
from pathlib import Path

SBATCH = """#!/bin/sh
cd "{folder}"
job=$(($(cat next 2>/dev/null || echo 100) + 1))
echo $job > next
cat > job$job.sh
for argument in "$@"; do
  echo "$argument" >> job$job.arguments
  case "$argument" in --output=*) log=$(echo "${{argument#--output=}}" | sed "s/%x/job/;s/%j/$job/");; esac
done
(echo RUNNING > job$job.state
 sh job$job.sh > "$log" 2>&1 & echo $! > job$job.pid; wait $!
 code=$?
 [ "$(cat job$job.state)" = CANCELLED ] || {{ [ $code = 0 ] && echo COMPLETED || echo FAILED; }} > job$job.new
 [ -s job$job.new ] && mv job$job.new job$job.state) > /dev/null 2>&1 < /dev/null &
echo "$job;cluster"
"""
SQUEUE = """#!/bin/sh
for argument in "$@"; do case "$argument" in --jobs=*) job=${{argument#--jobs=}};; esac; done
[ -e "{folder}/job$job.state" ] || {{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }}
cat "{folder}/job$job.state"
"""
SRUN = """#!/bin/sh
nodes=${{SLURM_NNODES:-1}}
while :; do
  case "$1" in --nodes=*) nodes=${{1#--nodes=}};; -*) ;; *) break;; esac
  echo "$1" >> "{folder}/srun.arguments"
  shift
done
exec 3<&0
node=0 tasks= code=0
while [ $node -lt $nodes ]; do
  SLURM_NODEID=$node SLURM_LAUNCH_NODE_IPADDR=127.0.0.1 "$@" <&3 &
  tasks="$tasks $!" node=$((node + 1))
done
for task in $tasks; do wait $task || code=$?; done
exit $code
"""
"""Starts its command once for each node, all of them on this machine, with the standard input that it has itself."""
SCANCEL = """#!/bin/sh
echo CANCELLED > "{folder}/job$1.state"
kill -9 $(cat "{folder}/job$1.pid")
"""


def install(folder: Path) -> Path:
    """Write the commands; the folder that belongs on the PATH."""
    place = folder / "bin"
    place.mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("srun", SRUN)):
        (place / name).write_text(text.format(folder=folder))
        (place / name).chmod(stat.S_IRWXU)
    return place


def put_on_path(place: Path) -> str:
    """The PATH with the commands first, and without this Python's folder, as where no environment is activated."""
    others = [one for one in os.environ["PATH"].split(os.pathsep) if one != str(Path(sys.executable).parent)]
    return os.pathsep.join([str(place), *others])
