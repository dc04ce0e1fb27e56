#!/usr/bin/env bash
# A Silver lake in Azure Blob Storage: Azurite, Microsoft's emulator of it, and the real program. Needs Node.js with npm, Python and curl.
set -euo pipefail
source "$(dirname "$0")/store.sh"

need node nodejs
need npm npm
need curl curl
version=3.37.0
azurite=$tools/azurite-$version
if [ ! -e "$azurite/whole" ]; then
    npm install --silent --no-audit --no-fund --prefix "$azurite" "azurite@$version"
    touch "$azurite/whole"
fi
python_of_store
program_under_test

port=$(free_port)
start azurite "$azurite/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$port" --location "$work/data" \
    --skipApiVersionCheck --disableTelemetry --silent
await azurite "http://127.0.0.1:$port/"
"$python" "$servers/azure_container.py" "http://127.0.0.1:$port"
check_lake azure "http://127.0.0.1:$port"
