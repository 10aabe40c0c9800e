#!/bin/sh
# Runs in a Debian host that has nothing but what the agent needs, as root: installs the kit beside this file, and sees
# what systemd does to guests. Says "HOST: <step> ok" for each step, or "HOST: failed".
#
#   systemd.sh installed    before the host is restarted
#   systemd.sh restarted    after that
set -eu
kit=$(dirname "$0")
groups=/sys/fs/cgroup/system.slice/zoneward-zones.service
trap 'status=$?; [ $status = 0 ] || { journalctl -u zoneward --no-pager | tail -20; echo "HOST: failed"; }' EXIT
ok() { echo "HOST: $* ok"; }
field() { vmadm get "$vm" | sed -n "s/.*\"$1\": \"\?\([a-z0-9_]*\).*/\1/p" | head -1; }
agent() { systemctl show -p MainPID --value zoneward; }

if [ "$1" = installed ]; then
    cp "$kit/zoneward" "$kit/vmadm" /usr/local/bin/
    cp "$kit"/*.service /etc/systemd/system/
    # Sooner than the minute that the unit gives.
    mkdir -p /etc/systemd/system/zoneward.service.d
    printf '[Service]\nWatchdogSec=10\nTimeoutAbortSec=5\n' >/etc/systemd/system/zoneward.service.d/sooner.conf
    # There is no network to wait for.
    systemctl -q mask systemd-networkd-wait-online
    systemctl -q enable --now zoneward zoneward-guests
    [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
    ok start
    echo '{"brand": "kvm", "ram": 64, "alias": "one", "autoboot": false}' | vmadm create
    vm=$(vmadm list -H -o uuid)
    vmadm start "$vm"
    pid=$(field pid)
    limit=$(cat "$groups/zoneward-$vm/memory.max")
    grep -q "/zoneward-$vm\$" "/proc/$pid/cgroup"
    ok guest
    unmoved() {
        systemctl -q is-active zoneward
        [ "$(field state)" = running ] && [ "$(field pid)" = "$pid" ]
        [ "$(cat "$groups/zoneward-$vm/memory.max")" = "$limit" ]
        ok "$1"
    }
    systemctl restart zoneward
    unmoved restart
    systemctl kill -s KILL --kill-who=main zoneward
    until [ "$(systemctl show -p NRestarts --value zoneward)" = 1 ] && vmadm list >/dev/null 2>&1; do sleep 1; done
    unmoved kill
    systemctl daemon-reload && systemctl daemon-reexec
    systemctl restart zoneward
    unmoved reexec
    hung=$(agent)
    kill -STOP "$hung"
    # A client of the one that hangs would wait for it.
    until [ "$(agent)" != "$hung" ] && timeout 5 vmadm list >/dev/null 2>&1; do sleep 1; done
    unmoved watchdog
    # What is below the group of the agent itself: nothing that could be in its way.
    [ -z "$(ls -d /sys/fs/cgroup/system.slice/zoneward.service/*/ 2>/dev/null)" ]
    ok group
else
    until vmadm list >/dev/null 2>&1; do sleep 1; done
    vm=$(vmadm list -H -o uuid)
    until [ "$(field state)" = running ]; do sleep 1; done
    ok autoboot
    vmadm events --full --from-start --no-follow | grep -qi host_shutdown
    ok drain
fi
