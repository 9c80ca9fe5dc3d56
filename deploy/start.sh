#!/bin/sh
# Starts one part of the deployment: webserver, daemon, code, the command lance, or any other as it is given.
set -eu
cd /opt/lance

# The volume of a new cluster is empty, and a folder of experiments that is not there is a mistake.
experiments="${LANCE_HOME:-/lance}/experiments"
case ":${LANCE_EXPERIMENTS:-}:" in
*":$experiments:"*) mkdir -p "$experiments" ;;
esac

# The pods of Kubernetes run whole commands of Dagster's: those are told of the instance, and DAGSTER_HOME is a folder
# that is not there and cannot be made.
case "${1:-webserver}" in
webserver | daemon | code | lance)
    python -c "
import os, pathlib
from lance_assets.assets.deploying.instance import prepare_instance
prepare_instance(pathlib.Path(os.environ['DAGSTER_HOME']), is_own=True)"
    ;;
esac

case "${1:-webserver}" in
webserver) exec dagster-webserver -h 0.0.0.0 -p 3000 -w "${LANCE_WORKSPACE:-workspace.yaml}" ;;
daemon) exec dagster-daemon run -w "${LANCE_WORKSPACE:-workspace.yaml}" ;;
code) exec dagster code-server start -h 0.0.0.0 -p 4000 -m lance_assets.assets.code_location --location-name lance ;;
*) exec "$@" ;;
esac
