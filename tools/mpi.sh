# mpi.sh - sourced by scripts: sets `mpirun` to the launcher with the flags that this machine needs.
# Open MPI refuses to run as root and to start more ranks than cores unless it is told so; MPICH knows no such
# flags and needs none.
mpirun=${MPIRUN:-mpirun}
if $mpirun --version 2>/dev/null | grep -qi 'open mpi\|open-mpi\|openrte'; then
    mpirun="$mpirun --oversubscribe --bind-to none"
    [ "$(id -u)" != 0 ] || mpirun="$mpirun --allow-run-as-root"
fi
