#!/bin/sh
# SPDX-License-Identifier: MIT
# The control API, driven by curl through a guest's whole life; and what is no request, or not to be done now. The guest is
# a payload (tests/payload/pages.c). Runs in the nested host, and where /dev/kvm takes payloads on the machine itself:
# VINIT, PAGES and CURL say where these are, T which folder to use.
: "${VINIT:=/init}" "${PAGES:=/t/pages}" "${CURL:=/t/curl/curl}" "${T:=/tmp/t}"
mkdir -p "$T"
pids=
# shellcheck disable=SC2086	# a list
trap 'kill -KILL $pids 2>/dev/null' EXIT

now() { cut -d. -f1 /proc/uptime; }
begin() { name=$1 began=$(now) why=; }
want() {
	what=$1
	shift
	"$@" || why="$why; $what"
}
end() {
	if [ -z "$why" ]; then
		echo "ok $name ($(($(now) - began)) s)"
	else
		tail -n 15 "$T/$vm.log" "$T/$vm.out" | sed 's/^/  /'
		echo "FAIL $name${why#;}"
	fi
}
is() { [ "$1" = "$2" ] || { echo "  $name: \"$1\" is not \"$2\""; return 1; }; }
wait_for() {
	until_=$(($(now) + $1))
	shift
	until "$@" 2>/dev/null; do
		[ "$(now)" -lt $until_ ] || return 1
		sleep 0.1
	done
}

# vmm NAME OPTION...: a VMM with an API, which the rest speaks to until the next.
vmm() {
	vm=$1
	shift
	rm -f "$T/$vm.in" "$T/$vm.end"
	mkfifo "$T/$vm.in"
	"$VINIT" run --name "$vm" --api-sock "$T/$vm.sock" "$@" 0<>"$T/$vm.in" >"$T/$vm.out" 2>"$T/$vm.log" &
	pid=$!
	pids="$pids $pid"
	want "no socket" wait_for 20 [ -S "$T/$vm.sock" ]
}

# curl OPTION... PATH
curl_() { $CURL -s --unix-socket "$T/$vm.sock" --max-time 60 "$@"; }

# asks STATUS METHOD PATH [BODY]: the reply is $T/reply. With 400 and up it has a sentence.
asks() {
	status_=$1 method_=$2 path_=$3
	shift 3
	: >"$T/reply"
	[ $# = 0 ] || set -- -H 'Content-Type: application/json' -d "$1"
	code=$(curl_ -o "$T/reply" -w '%{http_code}' -X "$method_" "$@" "http://localhost$path_")
	[ "$code" = "$status_" ] && { [ "$code" -lt 400 ] || sentence; } && return
	echo "  $name: $method_ $path_ ${3-} ${4-}: $code, not $status_: $(cat "$T/reply")"
	return 1
}

sentence() { grep -qE '^\{"fault_message":"([^"\\]|\\.){8,}"\}$' "$T/reply"; }
# has WORDS: the last reply.
has() { grep -qF -- "$1" "$T/reply" || { echo "  $name: no $1 in: $(cat "$T/reply")"; return 1; }; }
# state WORD
state() { asks 200 GET / && has "\"state\":\"$1\""; }

# tell LETTER: the payload does it.
tell() {
	told=$(grep -c '^did ' "$T/$vm.out")
	printf %s "$1" 1<>"$T/$vm.in"
	wait_for 30 told
}
told() { [ "$(grep -c '^did ' "$T/$vm.out")" -gt "$told" ]; }

head -c 65536 /dev/zero >"$T/disk"
head -c 65536 /dev/zero >"$T/disk2"
case $(uname -m) in
x86_64) at=4294967296 line=10 none=24 ;;
aarch64) at=2147483648 line=40 none=64 ;;
esac

begin api_configure
vmm api --stop-timeout 1
want "mode" is "$(stat -c %a "$T/api.sock")" 600
want "GET /" state "Not started"
want "GET /version" asks 200 GET /version
want "its words" has '"vinit_version":"'
want "PUT /machine-config" asks 204 PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 32}'
want "PATCH /machine-config" asks 204 PATCH /machine-config '{"mem_size_mib": 64, "track_dirty_pages": true}'
want "GET /machine-config" asks 200 GET /machine-config
want "its words" has '"vcpu_count":1,"mem_size_mib":64,"track_dirty_pages":true'
want "PUT /boot-source" asks 204 PUT /boot-source "{\"kernel_image_path\": \"$PAGES\", \"boot_args\": \"at=$at size=1048576\"}"
want "PUT /drives" asks 204 PUT /drives/one "{\"drive_id\": \"one\", \"path_on_host\": \"$T/disk\", \"is_root_device\": false, \"is_read_only\": false}"
want "PUT /entropy" asks 204 PUT /entropy '{}'
want "PUT /logger" asks 204 PUT /logger '{"level": "Info"}'
[ ! -c /dev/vhost-vsock ] || want "PUT /vsock" asks 204 PUT /vsock '{"guest_cid": 71}'
want "GET /vm/config" asks 200 GET /vm/config
want "its kernel" has "\"kernel_image_path\":\"$PAGES\""
want "its disk" has "\"drive_id\":\"one\",\"path_on_host\":\"$T/disk\""
end

# bad METHOD PATH BODY...: 400 and a sentence, each. The state and the configuration stay.
bad() {
	method__=$1 path__=$2
	shift 2
	for body; do
		want "$method__ $path__ $body" asks 400 "$method__" "$path__" "$body"
	done
}
begin api_malformed
want "configuration" asks 200 GET /vm/config
cp "$T/reply" "$T/before"
bad PUT /machine-config '' '{' '}' '[]' 'null' '7' '"x"' '{}' '{"vcpu_count": 1}' '{"vcpu_count": 0, "mem_size_mib": 64}' \
	'{"vcpu_count": -1, "mem_size_mib": 64}' '{"vcpu_count": 1.5, "mem_size_mib": 64}' '{"vcpu_count": "1", "mem_size_mib": 64}' \
	'{"vcpu_count": 1, "mem_size_mib": 64} x' '{"vcpu_count": 1, "vcpu_count": 1, "mem_size_mib": 64}' \
	'{"vcpu_count": 1, "mem_size_mib": 18446744073709551616}' '{"vcpu_count": 1, "mem_size_mib": 1}' \
	'{"vcpu_count": 99999999999, "mem_size_mib": 64}' '{"vcpu_count": 1, "mem_size_mib": 64, "more": 1}' \
	'{"vcpu_count": 01, "mem_size_mib": 64}' '{"vcpu_count": 1, "mem_size_mib": 64,}' "{'vcpu_count': 1}" \
	'{"vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "3M"}' '{"vcpu_count": 1, "mem_size_mib": 64, "track_dirty_pages": "yes"}'
bad PUT /boot-source '{}' '{"kernel_image_path": ""}' '{"kernel_image_path": "a\u0000b"}' '{"kernel_image_path": "\ud800"}' \
	'{"kernel_image_path": "x' '{"boot_args": "x"}'
bad PUT /drives/two '{}' '{"drive_id": "one", "path_on_host": "/x"}' '{"drive_id": "two"}' \
	'{"drive_id": "two", "path_on_host": "/x", "is_root_device": true}'
bad PUT /drives/a%2fb '{"drive_id": "a/b", "path_on_host": "/x"}'
bad PUT /vsock '{}' '{"guest_cid": 2}' '{"guest_cid": 4294967295}' '{"guest_cid": 18446744073709551615}' '{"guest_cid": null}'
bad PUT /actions '{}' '{"action_type": "Fly"}' '{"action_type": 1}' '{"action_type": "instancestart"}'
bad PATCH /vm '{}' '{"state": "Running"}' '{"state": true}'
bad PUT /snapshot/create '{}' '{"snapshot_path": ""}' '{"snapshot_path": "/x", "snapshot_type": "Half"}'
bad PUT /snapshot/load '{}' '{"snapshot_path": 1}' '{"snapshot_path": "/x", "drives": 1}' '{"snapshot_path": "/x", "drives": [1]}'
bad PUT /memory-regions '{}' '{"guest_address": 1}' '{"guest_address": "0x1000", "size": 4096}'
bad PUT /interrupts/x '{"pulse": true}'
bad PUT /interrupts/-1 '{"pulse": true}'
bad PUT "/interrupts/$line" '{}' '{"level": 1}' '{"level": true, "pulse": true}' '{"pulse": false}'
bad PUT /dirty-log '{}' '{"enabled": 1}'
bad PUT /logger '{"level": "Loud"}'
deep=$(printf '%3000s' '' | tr ' ' '[')
bad PUT /logger "{\"level\": $deep"
# What is no HTTP as the API has it.
want "a query" asks 400 GET '/version?x=1'
want "a body for nobody" asks 400 GET /version '{}'
want "no such path" asks 404 GET /no-such
want "no such path" asks 404 GET /drives
want "no such method here" asks 405 DELETE /vm
code=$(curl_ -o "$T/reply" -w '%{http_code}' -X "$(printf 'GET /version HTTP/1.1\r\nNo colon\r\nX: ')" http://localhost/)
want "a line that is no field: $code $(cat "$T/reply")" [ "$code" = 400 ]
want "its sentence" sentence
for field in 'Content-Length: 5x' 'Content-Length: -1' 'Content-Length: 99999999999999999999' 'Transfer-Encoding: gzip'; do
	code=$(curl_ -o "$T/reply" -w '%{http_code}' -X PUT -H "$field" -d '{}' http://localhost/entropy)
	case $code in
	400 | 413 | 501) want "$field: its sentence: $(cat "$T/reply")" sentence ;;
	*) want "$field: $code $(cat "$T/reply")" false ;;
	esac
done
head -c 300000 /dev/zero | tr '\0' ' ' >"$T/long"
code=$(curl_ -o "$T/reply" -w '%{http_code}' -X PUT --data-binary "@$T/long" http://localhost/logger)
want "a long body: $code" [ "$code" = 413 -o "$code" = 400 ]
code=$(curl_ -o "$T/reply" -w '%{http_code}' -H "X: $(head -c 20000 "$T/long" | tr ' ' x)" http://localhost/version)
want "a long field: $code" [ "$code" = 431 -o "$code" = 400 ]
code=$(curl_ -o "$T/reply" -w '%{http_code}' "http://localhost/$(head -c 20000 "$T/long" | tr ' ' x)")
want "a long path: $code" [ "$code" = 414 -o "$code" = 431 -o "$code" = 400 ]
want "the configuration after all that" asks 200 GET /vm/config
want "is another one" cmp -s "$T/reply" "$T/before"
want "state" state "Not started"
end

begin api_wrong_time
bad PATCH /vm '{"state": "Paused"}' '{"state": "Resumed"}'
bad PUT /snapshot/create "{\"snapshot_path\": \"$T/none\"}"
bad PUT "/interrupts/$line" '{"pulse": true}'
bad PUT /memory-regions "{\"guest_address\": $at, \"size\": 1048576}"
bad PUT /dirty-log '{"enabled": true}'
want "POST /dirty-log/read" asks 400 POST /dirty-log/read
want "nothing was written" [ ! -e "$T/none" ]
end

begin api_start
want "InstanceStart" asks 204 PUT /actions '{"action_type": "InstanceStart"}'
want "the guest is not up" wait_for 60 grep -q '^ready' "$T/api.out"
want "state" state Running
want "it works" tell w
bad PUT /actions '{"action_type": "InstanceStart"}'
bad PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 32}'
bad PUT /boot-source "{\"kernel_image_path\": \"$PAGES\"}"
bad PUT /snapshot/create "{\"snapshot_path\": \"$T/none\"}"
bad PUT /snapshot/load "{\"snapshot_path\": \"$T/none\"}"
want "GET /statistics" asks 200 GET /statistics
want "GET /console" asks 200 GET /console
want "GET /memory-regions" asks 200 GET /memory-regions
want "main memory" has '"size":67108864,"read_only":false'
end

begin api_at_work
want "PUT /memory-regions" asks 200 PUT /memory-regions "{\"guest_address\": $at, \"size\": 1048576}"
slot=$(sed 's/[^0-9]//g' "$T/reply")
want "it is there" tell x
want "twice" asks 400 PUT /memory-regions "{\"guest_address\": $at, \"size\": 1048576}"
want "it has what was written" tell r
want "GET /dirty-log" asks 200 GET /dirty-log
want "its words" has '"enabled":true'
want "POST /dirty-log/read" asks 200 POST /dirty-log/read
want "a page of the region: $at" has "[$at,"
want "DELETE /memory-regions" asks 204 DELETE "/memory-regions/$slot"
want "DELETE of main memory" asks 400 DELETE /memory-regions/0
want "and once more, for the snapshot" asks 200 PUT /memory-regions "{\"guest_address\": $at, \"size\": 1048576}"
want "PUT /interrupts" asks 204 PUT "/interrupts/$line" '{"level": true}'
want "PUT /interrupts" asks 204 PUT "/interrupts/$line" '{"level": false}'
want "PUT /interrupts" asks 204 PUT "/interrupts/$line" '{"pulse": true}'
want "PUT /interrupts/$none" asks 400 PUT "/interrupts/$none" '{"pulse": true}'
want "PATCH /drives" asks 204 PATCH /drives/one "{\"drive_id\": \"one\", \"path_on_host\": \"$T/disk2\"}"
want "PATCH of a disk that is not there" asks 400 PATCH /drives/two "{\"drive_id\": \"two\", \"path_on_host\": \"$T/disk2\"}"
want "PATCH to no file" asks 400 PATCH /drives/one "{\"drive_id\": \"one\", \"path_on_host\": \"$T/no\"}"
end

# Clients that are silent or stop half-way take their own places and nobody's time.
# held: how many sockets the path has: the listening one, and a connection's each.
held() { grep -c " $T/api.sock$" /proc/net/unix; }
holding() { [ "$(held)" -gt 5 ]; }

begin api_silent_clients
since=$(now)
for i in 1 2 3 4 5; do
	want "a request" state Running
done
alone=$(($(now) - since))
holders=
for i in 1 2 3 4 5 6 7 8 9 10; do
	mkfifo "$T/hold$i" 2>/dev/null
	$CURL -s --unix-socket "$T/api.sock" --max-time 20 -T - -H 'Transfer-Encoding:' -H 'Content-Length: 100' http://localhost/logger \
		0<>"$T/hold$i" >/dev/null 2>&1 &
	holders="$holders $!"
done
want "only $(held) sockets" wait_for 20 holding
sleep 1 # the rest of them start
since=$(now)
for i in 1 2 3 4 5; do
	want "a request beside them" state Running
done
# The first may have to wait for a place, a second at most.
want "they took $(($(now) - since)) s, alone $alone s" [ $(($(now) - since)) -le $((alone + 3)) ]
# shellcheck disable=SC2086	# a list
kill $holders 2>/dev/null
end

begin api_snapshot
want "it writes" tell w
want "Paused" asks 204 PATCH /vm '{"state": "Paused"}'
want "state" state Paused
want "Paused twice" asks 400 PATCH /vm '{"state": "Paused"}'
want "a snapshot" asks 204 PUT /snapshot/create "{\"snapshot_path\": \"$T/full\", \"snapshot_type\": \"Full\"}"
want "Resumed" asks 204 PATCH /vm '{"state": "Resumed"}'
want "it goes on" tell w
want "Paused" asks 204 PATCH /vm '{"state": "Paused"}'
want "a diff" asks 204 PUT /snapshot/create "{\"snapshot_path\": \"$T/diff\", \"snapshot_type\": \"Diff\"}"
want "its files" [ -s "$T/diff/memory.diff" -a -s "$T/full/memory" ]
want "Resumed" asks 204 PATCH /vm '{"state": "Resumed"}'
end

begin api_stop
curl_ http://localhost/wait >"$T/waited" &
waiter=$!
want "Stop" asks 204 PUT /actions '{"action_type": "Stop"}'
wait $waiter
want "GET /wait: $(cat "$T/waited")" grep -q '"reason":"' "$T/waited"
wait $pid
want "exit status" is $? 5
want "the socket is still there" [ ! -e "$T/api.sock" ]
end

begin api_load
vmm again
want "a diff" asks 400 PUT /snapshot/load "{\"snapshot_path\": \"$T/diff\"}"
want "no snapshot" asks 400 PUT /snapshot/load "{\"snapshot_path\": \"$T/none\"}"
want "state" state "Not started"
want "load" asks 204 PUT /snapshot/load "{\"snapshot_path\": \"$T/full\", \"drives\": [{\"drive_id\": \"one\", \"path_on_host\": \"$T/disk\"}]}"
want "state" state Paused
want "a second load" asks 400 PUT /snapshot/load "{\"snapshot_path\": \"$T/full\"}"
want "Resumed" asks 204 PATCH /vm '{"state": "Resumed"}'
want "it goes on where it was" tell r
want "its memory: $(cat "$T/again.out")" grep -qx 'did r 3' "$T/again.out"
want "no FAIL" [ "$(grep -c '^FAIL' "$T/again.out")" = 0 ]
want "End" asks 204 PUT /actions '{"action_type": "End"}'
wait $pid
want "exit status" is $? 5
vmm merged
"$VINIT" snapshot merge "$T/full" "$T/diff" >"$T/said" 2>&1
want "merge: $(cat "$T/said")" is $? 0
want "load and resume" asks 204 PUT /snapshot/load "{\"snapshot_path\": \"$T/full\", \"resume_vm\": true}"
want "state" state Running
want "it goes on" tell r
want "it has what the diff brought: $(cat "$T/merged.out")" grep -qx 'did r 4' "$T/merged.out"
want "no FAIL" [ "$(grep -c '^FAIL' "$T/merged.out")" = 0 ]
want "End" asks 204 PUT /actions '{"action_type": "End"}'
wait $pid
want "exit status" is $? 5
end
