#!/usr/bin/env bash
# A Silver lake in S3: MinIO, a real S3 server, and the real program. Needs Go, Python and curl.
set -euo pipefail
source "$(dirname "$0")/store.sh"

need go golang-go
need curl curl
version=v0.0.0-20260212201848-7aac2a2c5b7c
minio=$tools/minio-$version/minio
if [ ! -x "$minio" ]; then
    echo "building MinIO (some minutes)"
    GOBIN=$(dirname "$minio") go install "github.com/minio/minio@$version"
fi
python_of_store
program_under_test

port=$(free_port)
# A directory is a bucket.
mkdir -p "$work/data/silver"
start minio env MINIO_ROOT_USER=distributary MINIO_ROOT_PASSWORD=distributary-password MINIO_BROWSER=off \
    "$minio" server --quiet --address "127.0.0.1:$port" "$work/data"
await minio "http://127.0.0.1:$port/minio/health/live"
check_lake s3 "http://127.0.0.1:$port"
