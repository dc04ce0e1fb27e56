#!/bin/sh
# Runs the vendor's Python client, of the version that speaks the API of 2025-10, through the front of the tests.
# Needs: python3 with venv, cargo. Makes its environment in $DISTRIBUTARY_TOOLS.
set -eu
cd "$(dirname "$0")/../.."
tools="${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}"
venv="$tools/pinecone-8.1.2"
if ! command -v python3 >/dev/null; then
    echo "python3 is missing: apt-get install python3 python3-venv" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pinecone' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p "$tools"
    python3 -m venv "$venv" || { echo "python3 cannot make environments: apt-get install python3-venv" >&2; exit 1; }
    "$venv/bin/pip" install --quiet 'pinecone==8.1.2' 'urllib3==2.5.0'
fi
cargo build --quiet --features servers --example fronts
exec "$venv/bin/python" tests/servers/pinecone_client.py "${CARGO_TARGET_DIR:-target}/debug/examples/fronts"
