#!/bin/sh
# SPDX-License-Identifier: MIT
# The life cycle through `vinit ctl`, on guests under load: disk, memory, timer and vsock.
# shellcheck source=tests/nested/host/agent.sh
. /t/agent.sh

cycles=100
every || cycles=30
full || cycles=10
[ -z "$CHECK_LONG" ] || cycles=1000

boot a 5 --stop-timeout 30
boot b 6
ready a 5 >$T/ready.a || cat $T/ready.a
ready b 6 >$T/ready.b || cat $T/ready.b

# Meanwhile the others have their turn.
ctl b pause >$T/b.paused 2>&1
b_status=$? b_since=$(now)
look b

begin ctl_says
want "pause" is "$b_status $(cat $T/b.paused)" "0 paused"
ctl a info >$T/info.a 2>&1
want "info: $(cat $T/info.a)" grep -qi running $T/info.a
ctl b info >$T/info.b 2>&1
want "info of a paused one: $(cat $T/info.b)" grep -qi paused $T/info.b
for verb in stats version; do
	ctl a $verb >$T/said 2>&1
	want "$verb: status" is $? 0
	want "$verb says nothing" [ -s $T/said ]
done
end

begin ctl_refuses
want "resume of a running one" refuses a 1 'running.*expected.*paused|expected paused.*running' resume
want "start of a running one" refuses a 1 'running.*expected.*created|expected created.*running' start
want "pause of a paused one" refuses b 1 'paused.*expected.*running|expected running.*paused' pause
want "snapshot of a running one" refuses a 1 'running.*expected.*paused|expected paused.*running' snapshot $T/refused.d
want "its directory was made" [ ! -e $T/refused.d ]
want "load into a running one" refuses a 1 'running.*expected.*created|expected created.*running' load $T/refused.d
want "a verb that is none" refuses a 2 . no-such-verb
want "a verb without its words" refuses a 2 . snapshot
want "no such socket" refuses no 1 'no.sock: ENOENT' info
look a
want "the guest went on" wait_for 30 moved a
end

begin pause_resume_$cycles
bad=0 i=0
while [ $i -lt $cycles ]; do
	i=$((i + 1))
	ctl a pause >$T/said 2>&1 || { bad=$((bad + 1)); echo "  pause $i: $(cat $T/said)"; }
	look a
	# Now and then it is looked at that it stands still.
	[ $((i % 10)) != 1 ] || { sleep 0.5; want "pause $i: it goes on: $(counts a)" [ "$(counts a)" = "$seen_a" ]; }
	ctl a resume >$T/said 2>&1 || { bad=$((bad + 1)); echo "  resume $i: $(cat $T/said)"; }
	wait_for 30 moved a || { bad=$((bad + 1)); echo "  stalled after resume $i: $seen_a, then $(counts a)"; }
	[ $bad -lt 3 ] || break
done
want "$bad failures in $i" is $bad 0
want "the load" clean a
want "dmesg" quiet a
want "vinit" silent a
echo "  the longest gap between ticks: $(gap a) ms"
# Time stands still, so pauses don't show.
[ "$arch" != aarch64 ] || want "the clock went on while it was paused" [ "$(gap a)" -lt 10000 ]
end

if every; then
	begin reset_under_load
	hush a
	want "the talker's checks: $(cat $T/a.talk)" grep -q '^ok' $T/a.talk
	ctl a reset >$T/said 2>&1
	want "reset: $(cat $T/said)" is $? 0
	sleep 1
	: >$T/a.out
	want "it is up again" ready a 5
	want "the load" clean a
	end
fi

begin interrupted_pauses
# Calls on top of each other: each is carried out or refused, none is lost in between.
for i in 1 2 3 4 5 6; do
	ctl a pause >$T/said.$i 2>&1 &
	one=$!
	ctl a resume >>$T/said.$i 2>&1 &
	wait $one $!
done
ctl a pause >/dev/null 2>&1
want "it is paused" sh -c "$VM ctl --sock $T/a.sock info | grep -qi paused"
ctl a resume >$T/said 2>&1
want "and resumed: $(cat $T/said)" is $? 0
look a
want "and goes on" wait_for 30 moved a
want "the load" clean a
end

# The ladder from paused: the guest must run to hear its button. The stock kernel of aarch64 has no driver for it.
begin stop_paused
ctl a wait >$T/waited 2>&1 &
waiter=$!
hush a
want "the talker's checks: $(cat $T/a.talk)" grep -q '^ok' $T/a.talk
ctl a pause >/dev/null
if [ "$arch" = x86_64 ]; then
	ctl a stop >$T/said 2>&1
	want "stop: $(cat $T/said)" is $? 0
	want "it did not end" ended a
	want "exit status $status" is "$status" 0
	want "the guest's init did not hear it" grep -q 'guest: power button' $T/a.out
else
	ctl a end >$T/said 2>&1
	want "end: $(cat $T/said)" is $? 0
	want "it did not end" ended a
	want "exit status $status" is "$status" 5
fi
wait $waiter
want "wait: status" is $? 0
want "the socket is still there" [ ! -e $T/a.sock ]
want "ctl says that nobody is there" refuses a 1 'a.sock: ENOENT' info
end

full && begin pause_130_s || begin pause_longer
left=$((130 - ($(now) - b_since)))
full || left=0
[ $left -le 0 ] || sleep $left
want "it stood still" [ "$(counts b)" = "$seen_b" ]
ctl b resume >$T/said 2>&1
want "resume: $(cat $T/said)" is $? 0
resumed=$(now)
want "the load moves: $seen_b, then $(counts b)" wait_for 30 moved b
# What a kernel has to complain of, it says within its check's interval.
! full || sleep 25
look b
want "and goes on" wait_for 30 moved b
want "the load" clean b
want "dmesg" quiet b
want "vinit" silent b
echo "  paused for $((resumed - b_since)) s; the longest gap between ticks: $(gap b) ms"
[ "$arch" != aarch64 ] || want "the clock went on while it was paused" [ "$(gap b)" -lt 20000 ]
hush b
want "the talker's checks: $(cat $T/b.talk)" grep -q '^ok' $T/b.talk
ctl b end >/dev/null
want "it did not end" ended b
end
finish
