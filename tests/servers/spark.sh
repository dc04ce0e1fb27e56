#!/usr/bin/env bash
# A Silver lake that Spark writes, and the real program. Needs Java 17, Maven and Python.
set -euo pipefail
source "$(dirname "$0")/store.sh"

need python3 python3-venv
need mvn maven
spark=3.5.6 delta=3.3.2
venv=$tools/spark-$spark-delta-$delta
if [ ! -e "$venv/whole" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "pyspark==$spark"
    for artifact in "delta-spark_2.12:$delta" "delta-storage:$delta"; do
        mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="io.delta:$artifact" -DoutputDirectory="$venv/jars"
    done
    touch "$venv/whole"
fi
program_under_test

[ -z "${JAVA_HOME_17:-}" ] || export JAVA_HOME=$JAVA_HOME_17
# Of all addresses Spark takes the loopback one.
SPARK_LOCAL_IP=127.0.0.1 SPARK_JARS=$venv/jars LAKE_PROGRAM=$program "$venv/bin/python" "$servers/spark.py"
