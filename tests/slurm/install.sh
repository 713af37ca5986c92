#!/usr/bin/env bash
# Debian's Slurm, for tests/slurm; no daemon is started.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
missing=()
for command in slurmctld slurmd sbatch; do
  command -v "$command" >/dev/null || missing+=("$command")
done
((${#missing[@]} > 0)) || exit 0
if ! command -v apt-get >/dev/null || ((EUID != 0)); then
  echo "test-slurm: ${missing[*]} are missing, and this is not root on Debian or Ubuntu, which could install them:" >&2
  echo "  sudo apt-get install --no-install-recommends slurmctld slurmd slurm-client" >&2
  exit 1
fi
if [[ ! -e /usr/sbin/policy-rc.d ]]; then # packages start no service while this is there
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends slurmctld slurmd slurm-client >/dev/null
