#!/bin/sh
# A real Neo4j server for tests: `neo4j.sh lts|current [HOME [PORT]]`. It comes from Maven, runs on the Java that it needs, listens on a
# loopback port (a free one unless given), prints its address, and serves until its standard input ends. What it holds is in HOME, a
# directory that goes with the server unless given. The user is `neo4j`, the password $DISTRIBUTARY_TEST_NEO4J_PASSWORD (`secret-words`).
# `neo4j.sh lts|current -- COMMAND …` runs a command with the server's address in DISTRIBUTARY_TEST_NEO4J and `lts` or `current` in
# DISTRIBUTARY_TEST_NEO4J_RELEASE, and ends the server after it.
#
# JAVA_HOME_17 and JAVA_HOME_25 name the two JDKs; without them they are looked for under /usr/lib/jvm and in the PATH.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${DISTRIBUTARY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/distributary/tools}
case ${1:-} in
    lts) version=5.26.0 java=17 ;;
    current) version=2026.08.1 java=25 ;;
    *) echo "usage: $0 lts|current [HOME [PORT] | -- COMMAND ...]" >&2; exit 2 ;;
esac

if [ "${2:-}" = -- ]; then
    which=$1
    shift 2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkfifo "$work/in" "$work/out"
    "$0" "$which" < "$work/in" > "$work/out" &
    exec 3> "$work/in"
    read -r DISTRIBUTARY_TEST_NEO4J < "$work/out" || { echo "Neo4j $version did not start" >&2; exit 1; }
    DISTRIBUTARY_TEST_NEO4J_RELEASE=$which
    export DISTRIBUTARY_TEST_NEO4J DISTRIBUTARY_TEST_NEO4J_RELEASE
    code=0
    "$@" 3>&- || code=$?
    exec 3>&-
    wait
    exit "$code"
fi

# The first JDK of the wanted version.
jdk() {
    named=$(printenv "JAVA_HOME_$1" || true)
    for home in "$named" "${JAVA_HOME:-}" /usr/lib/jvm/*-"$1"-* /usr/lib/jvm/*-"$1" /usr/lib/jvm/*-"1.$1".* "$(dirname "$(dirname "$(readlink -f "$(command -v java || echo /)")")")"; do
        if [ -n "$home" ] && [ -x "$home/bin/java" ] && "$home/bin/java" -version 2>&1 | head -n 1 | grep -q "\"$1[\".]"; then
            echo "$home"
            return
        fi
    done
    echo "Neo4j $version needs a JDK $1 and there is none: install it (apt-get install openjdk-$1-jdk-headless, or temurin-$1-jdk from \
Adoptium), or name it in JAVA_HOME_$1" >&2
    exit 1
}

command -v mvn > /dev/null || { echo "the Neo4j server comes by Maven: apt-get install maven" >&2; exit 1; }
JAVA_HOME=$(jdk "$java")
export JAVA_HOME
mkdir -p "$tools"
classpath=$tools/neo4j-$version.classpath
# A classpath of files that are still there is used as it is; anything else is asked of Maven.
if [ ! -s "$classpath" ] || ! tr ':' '\n' < "$classpath" | (while read -r jar; do [ -e "$jar" ] || exit 1; done); then
    mvn -q -B -f "$here/pom.xml" -Dneo4j.version="$version" dependency:build-classpath -Dmdep.outputFile="$classpath.new" >&2
    mv "$classpath.new" "$classpath"
fi

# With a directory that was given the server takes this process's place, so that who started it can kill it.
if [ -n "${2:-}" ]; then
    home=$2 replace=exec
else
    home=$(mktemp -d) replace=
    trap 'rm -rf "$home"' EXIT
fi
password=${DISTRIBUTARY_TEST_NEO4J_PASSWORD:-secret-words}
$replace "$JAVA_HOME/bin/java" -Xmx768m -cp "$(cat "$classpath")" "$here/Serve.java" "$home" "${3:-0}" "$password"
