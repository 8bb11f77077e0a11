#!/usr/bin/env bash
# Brings the tools that the tests, the demo and the benchmarks use into target/. Safe to run again at any
# time: what is there already is left alone. One line per tool on success, one clear line on failure.
#
#   scripts/tools.sh minio|python|kcat|net|java|kafka|go|node|all ...
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c
target="$root/target"
mkdir -p "$target"

fail() { echo "tools: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing: $2"; }

# Copies run by two processes at once would trip over each other; the second waits here.
exec 9>"$target/.tools.lock"
flock 9

logged() { # NAME COMMAND...: quiet unless it fails
    local name=$1 log="$target/tools-$1.log"; shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "could not set up $name (whole output: $log)"
    fi
}

tool_minio() {
    local bin="$target/tools/minio" mark="$target/tools/minio.version"
    if [ ! -x "$bin" ] || { [ -f "$mark" ] && [ "$(cat "$mark")" != "$minio_version" ]; }; then
        need go "install Go 1.24 or newer; the suite builds MinIO with it"
        mkdir -p "$target/tools"
        echo "tools: building MinIO (some minutes, once)"
        logged minio env GOBIN="$target/tools" go install "github.com/minio/minio@$minio_version"
    fi
    echo "$minio_version" >"$mark"
    echo "tools: minio ready: $bin"
}

tool_python() {
    local venv="$target/venv" want="$root/scripts/requirements.txt"
    if ! cmp -s "$want" "$venv/.requirements"; then
        need python3 "install Python 3.11 or newer"
        echo "tools: installing Python clients and Parquet readers"
        [ -x "$venv/bin/python" ] || logged python-venv python3 -m venv "$venv"
        logged python "$venv/bin/pip" install --disable-pip-version-check -r "$want"
        cp "$want" "$venv/.requirements"
    fi
    echo "tools: python ready: $venv/bin/python"
}

tool_kcat() {
    if ! command -v kcat >/dev/null 2>&1; then
        need apt-get "kcat comes from the distribution's packages"
        [ "$(id -u)" = 0 ] || fail "kcat is missing: run 'apt-get install kcat' as root"
        logged kcat-update apt-get update -q
        logged kcat env DEBIAN_FRONTEND=noninteractive apt-get install -q -y kcat
    fi
    echo "tools: kcat ready: $(command -v kcat)"
}

tool_net() { # what makes the networks and disks that the cluster's fault tests break
    local tool package missing=
    for tool in ip:iproute2 iptables:iptables mkfs.ext4:e2fsprogs losetup:mount nsenter:util-linux; do
        package=${tool#*:} tool=${tool%%:*}
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $package"
    done
    [ "$(id -u)" = 0 ] || fail "network namespaces and loop devices need root; the fault tests cannot run without"
    if [ -n "$missing" ]; then
        need apt-get "install$missing by other means"
        logged net-update apt-get update -q
        # shellcheck disable=SC2086 # one word per package
        logged net env DEBIAN_FRONTEND=noninteractive apt-get install -q -y $missing
    fi
    echo "tools: net ready: $(command -v ip) $(command -v iptables)"
}

jars() { # NAME POM DIR
    local name=$1 pom=$2 dir=$3
    if ! cmp -s "$pom" "$dir/.pom.xml"; then
        need mvn "install Maven and a JDK 17 or newer"
        echo "tools: fetching jars of $name"
        rm -rf "$dir/lib" && mkdir -p "$dir/lib"
        logged "$name" mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$dir/lib"
        cp "$pom" "$dir/.pom.xml"
    fi
}

tool_java() {
    local dir="$target/java" source
    need javac "install a JDK 17 or newer"
    jars java "$root/minio-tests/java/pom.xml" "$dir"
    for source in "$root"/minio-tests/java/*.java; do
        if [ ! -f "$dir/classes/.built" ] || [ "$source" -nt "$dir/classes/.built" ]; then
            mkdir -p "$dir/classes"
            logged javac javac -cp "$dir/lib/*" -d "$dir/classes" "$root"/minio-tests/java/*.java
            touch "$dir/classes/.built"
            break
        fi
    done
    echo "tools: java ready: $dir"
}

tool_kafka() {
    need java "install a JDK 17 or newer"
    jars kafka "$root/bench/kafka/pom.xml" "$target/kafka"
    echo "tools: kafka ready: $target/kafka"
}

tool_go() { # franz-go and sarama, in the versions of go.mod
    local source="$root/minio-tests/go" bin="$target/tools/goclients" sum
    sum=$(cat "$source"/go.mod "$source"/go.sum "$source"/*.go | sha256sum)
    if [ ! -x "$bin" ] || [ "$(cat "$bin.sources" 2>/dev/null)" != "$sum" ]; then
        need go "install Go 1.26 or newer; the Go clients are built with it"
        mkdir -p "$target/tools"
        echo "tools: building the Go clients"
        logged go go -C "$source" build -o "$bin" .
        echo "$sum" >"$bin.sources"
    fi
    echo "tools: go ready: $bin"
}

tool_node() { # KafkaJS, in the version of package-lock.json
    local source="$root/minio-tests/node" dir="$target/node"
    if ! cmp -s "$source/package-lock.json" "$dir/.package-lock.json"; then
        need node "install Node.js 18 or newer"
        need npm "install npm; it brings the Node client"
        mkdir -p "$dir"
        cp "$source/package.json" "$source/package-lock.json" "$dir"
        logged node npm ci --prefix "$dir"
        cp "$source/package-lock.json" "$dir/.package-lock.json"
    fi
    echo "tools: node ready: $dir"
}

[ $# -gt 0 ] || set -- all
for tool in "$@"; do
    case $tool in
        minio|python|kcat|net|java|kafka|go|node) "tool_$tool" ;;
        all)
            for each in minio python kcat net java kafka go node; do "tool_$each"; done
            ;;
        *) fail "unknown tool '$tool'" ;;
    esac
done
