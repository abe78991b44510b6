#!/bin/sh
# SPDX-License-Identifier: MIT
# Networks between the nested host and guests' stock driver, each stream there and back, with checksums. Two guests are
# enough for all of it. One has three interfaces: a tap that vhost serves, one that the VMM serves, and a bridge's port; it
# goes on from a snapshot with vhost and the VMM the other way round, and then loses its taps. The other one's VMM and its
# network, passt, run without privileges.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

TOOL="/t/nettool --timeout $((2 * patience))"
bytes=2000000
mtu=9000
frame=$((mtu + 14))
chmod 1777 $T

# try COMMAND...: until it works, for as long as a guest may take.
try() { wait_for $patience "$@" >/dev/null; }

# on NAME: begins a case about the guest NAME, whose console and log it has.
on() {
	begin "$1"
	ln -sf "$T/$2.out" "$T/$1.out"
	ln -sf "$T/$2.log" "$T/$1.log"
}

# --- what the guests do -------------------------------------------------------------------------

three='
t="nettool --timeout 1000"
for i in 0 1 2; do
	cd /sys/class/net/eth$i
	ip link set eth$i up && ip addr add 10.9.$i.2/24 dev eth$i
	echo "eth$i $(cat address) mtu $(cat mtu) queues $(ls -d queues/rx-* | wc -l)"
done
$t sink 7001 --count 99 >/tmp/sink &
for i in 0 1 2; do
	until ping -c 1 -W 2 10.9.$i.1 >/tmp/ping; do sleep 1; done
	echo "eth$i pings"
	echo "eth$i $($t send 10.9.$i.1 7002 500000)"
done
for i in 0 1; do
	for cpu in 0 1 2 3; do
		taskset $((1 << cpu)) $t --udp pingpong 10.9.$i.1 7003 20
	done | sed -n "s/^ok.* napi=//p" | sort -u | wc -l >/tmp/queues
	echo "eth$i receives by $(cat /tmp/queues) queues"
done
nc -l -p 7010 </dev/null
$t offload eth0 off && $t offload eth1 off && echo "offloads are off"
nc -l -p 7011 </dev/null
$t offload eth0 on && $t offload eth1 on
nc -l -p 7012 </dev/null
set -- $(grep ^Tcp: /proc/net/snmp | tail -n 1)
echo "bad checksums ${16}, sent again ${13}"
for i in 0 1; do
	$t send 10.9.$i.1 701$i 1000000000000 &
done >/tmp/streams
until [ "$(cat /sys/class/net/eth[01]/carrier | tr -d "\n")" = 00 ]; do sleep 1; done
echo "no carrier"
ping -c 2 -W 1 10.9.0.1 >/tmp/ping || echo "not answered"
ping -c 2 -W 9 10.9.2.1 >/tmp/ping && echo "eth2 still pings"
sleep 3
echo "lives"'

passt='
cat >/tmp/dhcp <<-"END"
	#!/bin/sh
	[ "$1" = bound ] || exit 0
	ip link set $interface mtu ${mtu:-1500}
	ip addr add $ip/$mask dev $interface && ip route add default via $router
	echo "lease $ip/$mask via $router mtu ${mtu:-no}"
END
chmod +x /tmp/dhcp
t="nettool --timeout 1000"
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -O mtu -s /tmp/dhcp 2>/tmp/udhcpc || cat /tmp/udhcpc
$t sink 7101 --count 9 >/tmp/sink &
$t echo 7103 &
ping -c 2 -W 20 10.9.9.1 >/tmp/ping && echo "pings"
echo "guest $($t send 10.9.2.254 7102 1000000)"
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 1; done
echo "no carrier"
ping -c 2 -W 1 10.9.9.1 >/tmp/ping || echo "not answered"
sleep 3
echo "lives"'

# --- the host's side ----------------------------------------------------------------------------

# up TAP NUMBER: the taps are made by vinit; their addresses come from here.
up() { try ip link show "$1" && ip addr add "10.9.$2.1/24" dev "$1" && ip link set "$1" up; }

# stream NUMBER TAP: there and back; $from and $to are the bytes of the longest frame from and to the guest.
stream() {
	$TOOL largest "$2" >$T/largest 2>&1 &
	watcher=$!
	sleep 0.5
	$TOOL send "10.9.$1.2" 7001 $bytes >"$T/$name.job" 2>&1 || { cat "$T/$name.job"; return 1; }
	kill $watcher
	wait $watcher
	from=$(sed 's/.*from=\([0-9]*\).*/\1/' $T/largest) to=$(sed 's/.*to=\([0-9]*\).*/\1/' $T/largest)
	echo "  $name: $2: $(sed 's/^ok //' $T/largest)"
}

# In a root directory of its own, which it can leave (pivot_root(2)), as a user. It has no privileges to lose.
start_passt() {
	P=$T/passt
	mkdir $P && mount -t tmpfs -o mode=755 passt $P && cp -r /t/passt/* $P || return 1
	mkdir $P/proc $P/dev $P/etc && mkdir -m 1777 $P/tmp || return 1
	cp /etc/passwd $P/etc/ && cp /bin/busybox $P/bin/ && mount -t proc proc $P/proc && mount -o bind /dev $P/dev
	unshare -m sh -c "cd $P && mount -o move . / && exec chroot . /bin/busybox start-stop-daemon -S -c user:1000 -x /bin/passt \
		-- -f -4 -s /tmp/sock -l /tmp/log -g 10.9.2.254 -t 7101,7103" >$T/passt.out 2>&1 &
	wait_for 20 [ -S $P/tmp/sock ] || { cat $T/passt.out $P/tmp/log; return 1; }
}

# tcp: of the host's TCP.
tcp() {
	# shellcheck disable=SC2046
	set -- $(grep ^Tcp: /proc/net/snmp | tail -n 1)
	echo "bad checksums ${16}, sent again ${13}"
}

# privileges PID: what it may do beyond any user.
privileges() { sed -n 's/^CapEff:[[:space:]]*//p; s/^Uid:[[:space:]]*//p' "/proc/$1/status" | tr '\n\t' '  '; }

# ticks PID: hundredths of a second of CPU time of a VMM without its vCPUs. idles PID: it waits, and does nothing else.
ticks() { cat "/proc/$1"/task/*/stat | awk '$2 !~ /vcpu/ { n += $14 + $15 } END { print n }'; }
idles() {
	was=$(ticks "$1")
	sleep 3
	[ $(($(ticks "$1") - was)) -lt 60 ]
}

# neighbour: the address that the bridge has of the guest.
neighbour() { ip neigh show dev br0 | sed -n 's/^10.9.2.2 .*lladdr //p' | grep .; }

tell() { try nc -w 5 "10.9.$1.2" "$2" </dev/null; }

# Its own address would be one of its ports' otherwise, and change with them.
brctl addbr br0 && ip link set br0 address 02:00:00:00:09:01 && ip addr add 10.9.2.1/24 dev br0 && ip link set br0 up
ip addr add 10.9.9.1/32 dev lo
ip route add default via 10.9.2.254 dev br0 # of which passt makes the guest's network
echo 1 >/proc/sys/net/ipv4/conf/br0/arp_accept
echo "1000 1000" >/proc/sys/net/ipv4/ping_group_range
$TOOL sink 7002 --count 99 >$T/sink 2>&1 &
$TOOL echo 7003 >$T/echo 2>&1 &
$TOOL sink 7102 >$T/sink_passt 2>&1 &
chmod 666 /dev/kvm
echo "user:x:1000:1000::/:/bin/sh" >>/etc/passwd

name=three
guest_start "$three" --cpus 4 --api-sock $T/sock --net "tap=vt0,mac=02:00:00:00:09:02,vhost=yes,queues=4,mtu=$mtu" \
	--net "tap=vt1,vhost=no,queues=4,mtu=$mtu" --net bridge=br0,vhost=no,queues=2
three_pid=$pid

# A wrapper, since the user has to be changed between the time limit and vinit.
printf '#!/bin/sh\nexec start-stop-daemon -S -p /none -c user:1000 -a /init -- "$@"\n' >$T/as_user
chmod 755 $T/as_user
begin net_passt_starts
want "no passt" start_passt
name=passt
VM=$T/as_user
guest_start "$passt" --net "passt=$T/passt/tmp/sock"
VM=/init
name=net_passt_starts
passt_pid=$pid
want "no VMM" wait_for 10 sh -c "readlink /proc/$pid/exe | grep -qx /init"
want "the VMM's privileges" is "$(privileges $pid)" "1000 1000 1000 1000 0000000000000000 "
want "no passt" pidof passt >$T/passt.pid
want "passt's privileges" [ "$(privileges "$(cat $T/passt.pid)" | cut -c1-19)" = "1000 1000 1000 1000" ]
end

# large, small NUMBER TAP: whether there are frames in a stream that are longer than what a wire would carry, both ways.
large() { stream "$1" "$2" && [ "$from" -gt "$frame" ] && [ "$to" -gt "$frame" ]; }
small() { stream "$1" "$2" && [ "$from" -le "$frame" ] && [ "$to" -le "$frame" ]; }

# reached NUMBER TAP LINE: ping both ways, streams that each of the two began.
reached() {
	want "the guest is not heard" try ping -c 1 -W 5 "10.9.$1.2"
	want "its ping" try says "eth$1 pings"
	want "its interface" said "^eth$1 02:.* $3"
	want "its stream" try said "^eth$1 ok send bytes=500000"
	want "the stream, or segments are cut before they are sent" large "$1" "$2"
}

on net_vhost_4_queues_mtu_9000 three
want "no tap" up vt0 0
want "no tap" up vt1 1
reached 0 vt0 "mtu 9000 queues 4"
want "its address" said "^eth0 02:00:00:00:09:02 "
end
on net_user_4_queues_mtu_9000 three
reached 1 vt1 "mtu 9000 queues 4"
end
on net_bridge_2_queues three
frame=$((1500 + 14)) bytes=1000000
reached 2 br0 "mtu 1500 queues 2"
frame=$((mtu + 14)) bytes=2000000
want "ports" is "$(echo /sys/class/net/br0/brif/*)" /sys/class/net/br0/brif/vinit0
end
# The host sends to the queue that the flow came by.
on net_queues three
want "vhost's" try says "eth0 receives by 4 queues"
want "the VMM's" try says "eth1 receives by 4 queues"
end

on net_no_offloads three
tell 0 7010
want "the guest's are on" try says "offloads are off"
for i in 0 1; do
	want "the host's are on" $TOOL offload "vt$i" off >/dev/null
	want "the stream, or frames larger than a wire's" small $i "vt$i"
done
tell 0 7011
end

on net_passt passt
want "no lease" try says "lease 10.9.2.1/24 via 10.9.2.254 mtu 65520"
want "no ping" try says "pings"
want "the guest's stream" try said "^guest ok send bytes=1000000"
want "the stream to the guest" $TOOL send 127.0.0.1 7101 1000000 >/dev/null
end

# The guest announces where it is before anybody has asked, and is reached.
on net_restored three
for verb in pause "snapshot $T/snap" end; do
	# shellcheck disable=SC2086
	want "$verb" $VM ctl --sock $T/sock $verb >/dev/null
done
wait $three_pid
want "exit status" is $? 5
want "the taps stay" [ ! -e /sys/class/net/vt0 ] && [ ! -e /sys/class/net/vt1 ]
want "the port stays" is "$(ls /sys/class/net/br0/brif)" ""
arp -d 10.9.2.2 -i br0 2>/dev/null
want "the host knows it" [ -z "$(neighbour)" ]
$TOOL sink 7010 >$T/sink0 2>&1 &
$TOOL sink 7011 >$T/sink1 2>&1 &
timeout -s KILL $((2 * patience)) $VM run --name three --restore $T/snap --net tap=vt3,vhost=no --net tap=vt4,vhost=yes \
	--net bridge=br0,vhost=yes --console "file=$T/three.out" >"$T/three.log" 2>&1 </dev/null &
three_pid=$!
want "no tap" up vt3 0
want "no tap" up vt4 1
want "no announcement" wait_for 30 neighbour >/dev/null
for i in 0 1; do
	want "the stream, or segments are cut before they are sent" large $i vt$((3 + i))
	done
end

# flows TAP: are there more bytes than a moment ago? The guest sends all the time.
flows() {
	was=$(cat /sys/class/net/"$1"/statistics/rx_bytes)
	sleep 1
	[ $(($(cat /sys/class/net/"$1"/statistics/rx_bytes) - was)) -gt 100000 ]
}

# Under load: the cable is out for a moment, then for ever. The other guest knows nothing of it.
on net_taps_lost three
tell 0 7012
want "checksums in the guest" try said "^bad checksums 0,"
echo "  $name: in the guest: $(grep "^bad checksums" $T/three.out | tr -d '\r'); here: $(tcp)"
want "checksums here" [ "$(tcp | cut -d , -f 1)" = "bad checksums 0" ]
want "no load" try flows vt3
want "no load" try flows vt4
$TOOL pingpong 127.0.0.1 7103 300 >$T/pingpong 2>&1 &
pingpong=$!
ip link set vt3 down
ip link set vt4 down
sleep 1
ip link set vt3 up
ip link set vt4 up
want "vt3 does not go on" try flows vt3
want "vt4 does not go on" try flows vt4
ip link del vt3
ip link del vt4
want "no word of it" try says "no carrier"
want "it spins" idles $three_pid
wait $three_pid
want "exit status" is $? 0
want "errors" says "not answered"
want "the third interface" says "eth2 still pings"
want "lives" says "lives"
want "said once of each" is "$(grep -c 'the interface is gone' "$T/three.log")" 2
wait $pingpong
want "the other guest: $(cat $T/pingpong)" is $? 0
end

on net_passt_lost passt
kill -KILL "$(cat $T/passt.pid)"
want "no word of it" try says "no carrier"
want "it spins" idles $passt_pid
wait $passt_pid
want "exit status" is $? 0
want "errors" says "not answered"
want "lives" says "lives"
want "said once" is "$(grep -c 'EPIPE' "$T/passt.log")" 1
end
