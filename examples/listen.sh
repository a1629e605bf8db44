#!/bin/sh
# What is said in a room, a line of JSON each, with nothing but curl and sed: Server-Sent Events.
#
#     examples/listen.sh [ROOM [URL]]
#
# Each event has an id, `epoch:offset`. Who comes back tells the last one (`Last-Event-ID`), and hears what it has missed; an event
# `reset` says that the server does not have all of that any more. Ends when the server refuses.
set -eu

room=${1:-lobby}
url=${2:-http://127.0.0.1:8080}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM
: >"$directory/last"

while :; do
    last=$(cat "$directory/last")
    # Exit code 22 is a refusal (--fail); anything else is a connection that ended.
    code=0
    { curl -sSN --fail ${last:+-H "Last-Event-ID: $last"} "$url/api/rooms/$room/stream" || echo "exit: $?"; } |
        while IFS= read -r line; do
            case $line in
                'id: '*) printf '%s' "${line#id: }" >"$directory/last" ;;
                'data: '*) printf '%s\n' "${line#data: }" ;;
                'exit: 22') exit 22 ;;
            esac
        done || code=$?
    [ "$code" -ne 22 ] || exit 1
    sleep 1
done
