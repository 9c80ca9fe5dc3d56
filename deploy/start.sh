#!/bin/sh
# Starts one part of the deployment: webserver, daemon, code, or any other command as it is given.
set -eu
cd /opt/lance

python -c "
import os, pathlib
from lance_assets.assets.deploying.instance import prepare_instance
prepare_instance(pathlib.Path(os.environ['DAGSTER_HOME']), is_own=True)"

case "${1:-webserver}" in
webserver) exec dagster-webserver -h 0.0.0.0 -p 3000 -w "${LANCE_WORKSPACE:-workspace.yaml}" ;;
daemon) exec dagster-daemon run -w "${LANCE_WORKSPACE:-workspace.yaml}" ;;
code) exec dagster code-server start -h 0.0.0.0 -p 4000 -m lance_assets.assets.code_location --location-name lance ;;
*) exec "$@" ;;
esac
