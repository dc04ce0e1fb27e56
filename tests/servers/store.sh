# What s3.sh, azure.sh, gcs.sh and spark.sh share: where tools are kept, the program under test, and the end of what was started. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
servers=$root/tests/servers
tools=${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}
mkdir -p "$tools"
work=$(mktemp -d)
started=()

finish() {
    for child in "${started[@]}"; do kill "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# need TOOL PACKAGE: fails with the line that installs it.
need() {
    command -v "$1" >/dev/null || { echo "$1 is missing: apt-get install $2" >&2; exit 1; }
}

# A port of the loopback interface that nobody listens on.
free_port() {
    python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start LOG COMMAND…: runs a server until this script ends.
start() {
    local log=$work/$1
    shift
    "$@" >"$log" 2>&1 &
    started+=($!)
}

# await LOG URL: until the server answers anything at all.
await() {
    for _ in $(seq 600); do
        curl --silent --output /dev/null --max-time 5 "$2" && return
        kill -0 "${started[-1]}" 2>/dev/null || break
        sleep 0.2
    done
    echo "the server does not answer at $2:" >&2
    cat "$work/$1" >&2
    exit 1
}

# Python with the clients that this needs. The directory is named by their versions, so that others make another.
python_of_store() {
    need python3 python3-venv
    local venv=$tools/store-deltalake-1.6.6-obstore-0.12.1
    if [ ! -e "$venv/whole" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet deltalake==1.6.6 obstore==0.12.1 pyarrow==26.0.1
        touch "$venv/whole"
    fi
    python=$venv/bin/python
}

# The program: the one that is named, or one that is built now.
program_under_test() {
    if [ -n "${DISTRIBUTARY_BIN:-}" ]; then
        program=$(realpath "$DISTRIBUTARY_BIN")
    else
        program=$(cargo build --quiet --manifest-path "$root/Cargo.toml" --bin distributary --message-format json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
        "$program" --version >/dev/null
    fi
}

# check_lake STORE ENDPOINT: the scenario.
check_lake() {
    LAKE_STORE=$1 LAKE_ENDPOINT=$2 LAKE_PROGRAM=$program "$python" "$servers/store.py"
}
