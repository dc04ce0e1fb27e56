#!/usr/bin/env bash
# The tests that need more than Rust, npm and pip: real servers (Neo4j, MinIO), another writer
# of Delta tables (Spark), and the servers' own clients against our fronts.
# Each is a command of its own, that exits with 0 when all that it claims holds and keeps what it fetches in $DISTRIBUTARY_TOOLS.
# With arguments, only those of these names are run: tests/servers.sh s3 qdrant
# With --missing it runs nothing and prints the Debian packages of the tools that are missing.
#
# Nothing is skipped: a tool that is missing ends this with the line that installs it.
set -euo pipefail
cd "$(dirname "$0")/.."

export DISTRIBUTARY_TOOLS="${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}"
mkdir -p "$DISTRIBUTARY_TOOLS"

missing=()
# need TOOL PACKAGE: the tool is on the path.
need() { command -v "$1" >/dev/null || missing+=("$1 is missing: apt-get install $2"); }

# least FOUND WANTED: whether the version FOUND is WANTED or newer.
least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# jdk MAJOR…: the home of the first JDK that is of one of these versions.
jdk() {
    local home major
    for home in ${JAVA_HOME:-} /usr/lib/jvm/* /Library/Java/JavaVirtualMachines/*/Contents/Home; do
        [ -x "$home/bin/javac" ] || continue
        major=$("$home/bin/javac" -version 2>&1 | sed -E 's/^javac ([0-9]+).*/\1/')
        for wanted in "$@"; do
            if [ "$major" = "$wanted" ]; then echo "$home"; return; fi
        done
    done
}

need cargo rustup
need python3 "python3 python3-venv"
need mvn maven
need curl curl
need npm "nodejs npm"
need go golang-go
if command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    missing+=("python3 makes no virtual environments: apt-get install python3-venv")
fi
if command -v go >/dev/null; then
    found=$(go env GOVERSION | sed 's/^go//')
    least "$found" 1.24 || missing+=("Go is $found, MinIO needs 1.24: apt-get install golang-go, of a release that has it")
fi
# The long-term release of Neo4j runs on Java 17, the current one on Java 25.
export JAVA_HOME_17="${JAVA_HOME_17:-$(jdk 17)}"
export JAVA_HOME_25="${JAVA_HOME_25:-$(jdk 25)}"
[ -n "$JAVA_HOME_17" ] || missing+=("a JDK 17 is missing: apt-get install openjdk-17-jdk-headless, or name it in JAVA_HOME_17")
[ -n "$JAVA_HOME_25" ] || missing+=("a JDK 25 is missing: apt-get install openjdk-25-jdk-headless, or name it in JAVA_HOME_25")
if [ "${1:-}" = --missing ]; then
    [ ${#missing[@]} -eq 0 ] || printf '%s\n' "${missing[@]}" | sed -n 's/.*apt-get install \([a-z0-9 -]*\).*/\1/p'
    exit
fi
if [ ${#missing[@]} -gt 0 ]; then
    printf 'error: %s\n' "${missing[@]}" >&2
    exit 1
fi

rust="cargo test --quiet --features servers --lib --test servers -- sinks::graph neo4j"
# NAME|WHAT IT SHOWS|COMMAND
scenarios=(
    "clickhouse|clickhouse-connect, the official Python client, through the front of ClickHouse|tests/servers/clickhouse.sh"
    "qdrant|the official Python client through the front of Qdrant|tests/servers/qdrant.sh"
    "pinecone|the official Python client through the front of Pinecone|tests/servers/pinecone.sh"
    "neo4j-lts|Neo4j 5.26, a real server: the contract, and whole syncs|tests/servers/neo4j.sh lts -- $rust"
    "neo4j-current|Neo4j 2026.08, a real server: the contract, and whole syncs|tests/servers/neo4j.sh current -- $rust"
    "spark|a Silver lake that Spark writes|tests/servers/spark.sh"
    "s3|a Silver lake in S3: MinIO|tests/servers/s3.sh"
    "gcs|a Silver lake in Google Cloud Storage: fake-gcs-server|tests/servers/gcs.sh"
    "azure|a Silver lake in Azure: Azurite|tests/servers/azure.sh"
)
if [ $# -gt 0 ]; then
    chosen=()
    for name in "$@"; do
        found=""
        for scenario in "${scenarios[@]}"; do
            if [ "${scenario%%|*}" = "$name" ]; then chosen+=("$scenario"); found=1; fi
        done
        [ -n "$found" ] || { printf 'error: there is no scenario %s; there are:\n' "$name" >&2; printf '  %s\n' "${scenarios[@]%%|*}" >&2; exit 1; }
    done
    scenarios=("${chosen[@]}")
fi

passed=0
failed=()
for scenario in "${scenarios[@]}"; do
    IFS='|' read -r name what command <<<"$scenario"
    printf '\n=== %s: %s\n' "$name" "$what"
    began=$SECONDS
    # Its standard input is nobody's.
    if bash -c "$command" </dev/null; then
        passed=$((passed + 1))
        echo "=== $name passed in $((SECONDS - began)) s"
    else
        failed+=("$name")
        echo "=== $name FAILED after $((SECONDS - began)) s"
    fi
done

printf '\n'
[ ${#failed[@]} -eq 0 ] || printf 'failed: %s\n' "${failed[@]}"
echo "$passed passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ]
