#!/bin/sh
# Starts a task, follows it with long polls, prints its result: sh clients/follow.sh [http://localhost:3000]
set -eu
api=${1:-http://localhost:3000}/api/v1
session=shell-$$-$(date +%s)
# Fails with the server's own words where it refuses.
call() {
    said=$(curl -sS --fail-with-body --noproxy '*' --max-time 60 -H "X-App-Session: $session" \
        -H 'Content-Type: application/json' "$@") || { echo "$said" >&2; exit 1; }
    printf '%s\n' "$said"
}
# One member of an answer that is a string or a number.
member() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

# With a key of its own, the request can be sent again without a second task.
created=$(call -H "Idempotency-Key: $session" -d '{"items": ["one", "two", "three"], "itemDelayMs": 500}' \
    "$api/demo/tasks/batch")
task=$api/tasks/$(printf %s "${created#*\"task\":}" | sed 's/{"id":"\([^"]*\).*/\1/')
etag='"0"' # A tag that no state has: the first answer comes at once.
while :; do
    # The answer comes as soon as anything is other than the tag says, or after 30 s.
    answer=$(call -i -H "If-None-Match: $etag" "$task/status?wait=30" | tr -d '\r')
    etag=$(printf %s "$answer" | sed -n 's/^ETag: //p')
    status=$(printf %s "$answer" | member status)
    [ -n "$status" ] || continue # 304: nothing new
    case $status in pending | running) ;; *) break ;; esac
    echo "$(printf %s "$answer" | member progress) %"
done
echo "$status $(call "$task" | sed -n 's/.*"result":\(.*\),"metadata".*/\1/p')"
[ "$status" = completed ]
