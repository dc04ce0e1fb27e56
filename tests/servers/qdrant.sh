#!/bin/sh
# The official Python client against Qdrant's front: what it does with a server, it does here. Needs python3 with venv, pip and cargo.
set -eu
cd "$(dirname "$0")/../.."
tools="${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}"
venv="$tools/qdrant-1.20.0"
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c "import qdrant_client" 2>/dev/null; then
    command -v python3 >/dev/null || { echo "python3 is missing: apt-get install python3 python3-venv" >&2; exit 1; }
    mkdir -p "$tools"
    python3 -m venv "$venv" || { echo "python3 cannot make an environment: apt-get install python3-venv" >&2; exit 1; }
    "$venv/bin/pip" install --quiet "qdrant-client==1.20.0" "grpcio==1.85.3" "numpy==2.4.6"
fi
exec "$venv/bin/python" tests/servers/qdrant.py
