#!/bin/sh
# A worker with curl and jq: claims tasks and jobs of one type, and runs them:
#   WORKER_TOKEN=… sh worker.sh http://localhost:3000 count
set -u
api=$1/api/v1/work type=$2

# Posts until the server answers: it may be restarted meanwhile. Fails if the lease is over: stop working on it.
call() {
    while :; do
        said=$(curl -sS --noproxy '*' --max-time "${3:-10}" -w '\n%{http_code}' -H "Authorization: Bearer $WORKER_TOKEN" \
            -H 'Content-Type: application/json' -d "$2" "$api/$1") || true
        status=$(printf %s "$said" | tail -n 1) said=$(printf %s "$said" | sed '$d')
        case $status in
        2*) printf '%s\n' "$said" && return ;;
        410) printf 'stopped: %s\n' "$(printf %s "$said" | jq -r .reason)" >&2 && return 1 ;;
        4* | 503) printf %s "$said" | jq -r .message >&2 && [ "$status" = 503 ] || kill $$ ;;
        esac
        sleep 1
    done
}

# Yours: the claim is in $task; report as often as you like; what you print is the result.
work() {
    steps=$(printf %s "$task" | jq '.input.steps // 10') step=0
    while [ "$step" -lt "$steps" ]; do
        call "$lease/progress" "{\"progress\": $((step * 100 / steps)), \"step\": \"Step $((step + 1)) of $steps\"}" >/dev/null || return
        step=$((step + 1)) && sleep "$(printf %s "$task" | jq '(.input.delayMs // 500) / 1000')"
    done
    printf '{"steps": %s}\n' "$steps"
}

while :; do
    task=$(call claim "{\"types\": [\"$type\"], \"worker\": \"sh-$$\", \"waitMs\": 30000}" 40 | jq -c '.claims[0] // empty')
    [ -n "$task" ] && lease=$(printf %s "$task" | jq -r .lease) || continue
    # An empty report keeps the lease while the work is silent.
    while sleep "$(printf %s "$task" | jq '.leaseMs / 3000')" && call "$lease/progress" '{}'; do :; done >/dev/null 2>&1 & beat=$!
    result=$(work) && call "$lease/complete" "{\"result\": $result}" >/dev/null
    kill $beat 2>/dev/null
done
