#!/bin/sh
# Runs the tasks and jobs of one type with a command, on any machine that has curl:
#   export WORKER_TOKEN=...; curl -s {{base}}/worker.sh | sh -s -- TYPE COMMAND [ARGUMENT...]
# The command reads the claim as JSON from its standard input. A line of its output that begins with a percent is
# progress ("45% Resizing"), any other line goes to the log. Exit code 0 completes the task, another fails it.
set -u
url=${ATS_URL:-{{base}}}/api/v1/work
[ $# -ge 2 ] || { echo 'usage: sh worker.sh TYPE COMMAND [ARGUMENT...]' >&2; exit 2; }
[ -n "${WORKER_TOKEN:-}" ] || { echo 'worker: set WORKER_TOKEN to the one of the server' >&2; exit 2; }
type=$1 group= child= dir=$(mktemp -d) || exit 1
shift
command -v setsid >/dev/null && group=-
printf 'Authorization: Bearer %s\n' "$WORKER_TOKEN" >"$dir/token" # Not an argument: others could see it.
# Sets `said`, and `status`: 000 if the server does not answer.
post() {
    status=$(printf %s "$2" | curl -s -o "$dir/said" -w '%{http_code}' --max-time "${3:-10}" --data-binary @- \
        -H "@$dir/token" -H 'Content-Type: application/json' "$url/$1") || status=000
    said=$(cat "$dir/said" 2>/dev/null)
}
# As post, until the server answers: it may be restarted meanwhile.
insist() { while post "$@"; do case $status in 000 | 5??) echo "worker: waiting for the server $said" >&2; sleep 2 ;; *) return ;; esac done; }
stop() { [ -z "$child" ] || kill -TERM "$group$child" 2>/dev/null; }
trap 'stop; [ -z "$child" ] || post "$lease/release" "{}"; rm -rf "$dir"; exit 130' INT TERM HUP

# Reports the next lines of the output, up to number $1 and a hundred at once.
report() {
    to=$(($1 < sent + 100 ? $1 : sent + 100))
    body=$(tr '\r' '\n' <"$dir/out" | sed -n "$((sent + 1)),${to}p" | LC_ALL=C awk '
        { gsub(/\033\[[0-9;?]*[A-Za-z]/, ""); gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); gsub(/[\001-\037]/, " ") }
        /^ *[0-9]+(\.[0-9]+)? ?%/ && $0 + 0 <= 100 {
            percent = int($0); sub(/^ *[0-9.]+ ?% */, ""); if ($0 != "") step = substr($0, 1, 400); next }
        /[^ ]/ { lines = lines (lines == "" ? "" : ",") "\"" substr($0, 1, 500) "\"" }
        END { printf "{\"log\":[%s]", lines; if (percent != "") printf ",\"progress\":%d", percent
              if (step != "") printf ",\"step\":\"%s\"", step; print "}" }')
    sent=$to
    post "$lease/progress" "$body"
    # What is not UTF-8 goes without those bytes.
    [ "$status" != 400 ] || post "$lease/progress" "$(printf %s "$body" | LC_ALL=C tr -d '\200-\377')"
}

while :; do
    insist claim "{\"types\":[\"$type\"],\"worker\":\"$(uname -n) $$\",\"waitMs\":50000}" 60
    [ "$status" = 200 ] || { printf 'worker: %s\n' "$said" >&2; exit 1; }
    lease=$(printf %s "$said" | sed -n 's/^{"success":true,"claims":\[{"lease":"\([^"]*\)".*/\1/p')
    [ -n "$lease" ] || continue
    printf %s "$said" | sed 's/^{"success":true,"claims":\[//; s/\]}$//' >"$dir/in"
    : >"$dir/out"
    ${group:+setsid} "$@" <"$dir/in" >"$dir/out" 2>&1 &
    child=$! sent=0 status=
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.3 2>/dev/null || sleep 1
        report "$(tr '\r' '\n' <"$dir/out" | wc -l)"
        [ "$status" != 410 ] || { stop; sleep 3; kill -KILL "$group$child" 2>/dev/null; }
    done
    wait "$child" && end=complete body='{}' || end=fail body="{\"error\":\"exit status $?\"}"
    child= last=$body
    while [ "$status" != 410 ] && [ "$sent" -lt "$(tr '\r' '\n' <"$dir/out" | awk 'END { print NR }')" ]; do report 9999999; done
    insist "$lease/$end" "$last"
    [ "$status" = 200 ] || printf 'worker: %s\n' "$said" >&2
done
