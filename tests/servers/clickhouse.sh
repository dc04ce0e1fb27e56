#!/bin/sh
# Runs the official Python client against ClickHouse's front: tests/servers/clickhouse.sh
# What it needs is put into $DISTRIBUTARY_TOOLS, a directory in the cache by default.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}
venv=$tools/clickhouse-connect-1.12.0

if ! command -v python3 >/dev/null; then
    echo "python3 is missing: apt-get install python3 python3-venv" >&2
    exit 1
fi
if [ ! -e "$venv/ready" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" || { echo "python3 has no venv: apt-get install python3-venv" >&2; exit 1; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check clickhouse-connect==1.12.0 pyarrow==26.0.1
    touch "$venv/ready"
fi

cd "$root"
cargo build --quiet --features servers --example fronts
work=$(mktemp -d)
mkfifo "$work/stop"
cargo run --quiet --features servers --example fronts -- clickhouse <"$work/stop" >"$work/address" &
front=$!
# The front ends when its standard input does.
exec 3>"$work/stop"
trap 'exec 3>&-; wait "$front" 2>/dev/null || true; rm -rf "$work"' EXIT
until [ -s "$work/address" ]; do
    kill -0 "$front" 2>/dev/null || { echo "the front did not start" >&2; exit 1; }
    sleep 0.1
done
"$venv/bin/python" "$here/clickhouse.py" "$(head -1 "$work/address")"
