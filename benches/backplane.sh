#!/usr/bin/env bash
# How many messages a second get a place in a room of a cluster, beside what redis-benchmark reaches with the same script on one connection,
# with as many under way. Starts a redis-server of its own and ends it. Usage: benches/backplane.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PORT=17555
directory="$(mktemp -d)"
redis-server --port $PORT --bind 127.0.0.1 --save "" --appendonly no --dir "$directory" >/dev/null &
server=$!
trap 'kill $server; wait $server || true; rm -r "$directory"' EXIT
ask() { redis-cli -p $PORT "$@"; }
until ask PING >/dev/null 2>&1; do sleep 0.05; done

script() { ask SCRIPT LOAD "$(cat src/cluster/common.lua; echo; cat "src/cluster/$1.lua")"; }
keys=('starling:{r}:meta' 'starling:{r}:messages' 'starling:{r}:changes' 'starling:{r}:snapshot' 'starling:{r}:by')
ask EVALSHA "$(script open)" 5 "${keys[@]}" e r 604800000 "" >/dev/null
publish="$(script publish)"
message='{"sender":"ann","content":"a message of some length, as people say it","node":7,"tag":12345}'

for ((round = 0; round < ${1:-3}; round++)); do
    for under_way in 1 16 128 512; do
        count=$((under_way == 1 ? 20000 : 200000))
        found="$(redis-benchmark -p $PORT -n $count -c 1 -P $under_way -q \
            EVALSHA "$publish" 5 "${keys[@]}" e 0 0 0 0 10000 300000 604800000 starling:r:r "$message" | tr '\r' '\n')"
        echo "redis-benchmark, $under_way under way: $(grep -oE '[0-9.]+ requests per second' <<<"$found" | tail -n 1)"
    done
    cargo bench --quiet --bench backplane
done
