#!/bin/sh
# The whole journey on a real guest: an agent of its own, a VM from a machine JSON, an
# operating system from an ISO, events and console on screen, a picture, stop, delete.
#
# Everything lies in target/demo and certs/. As root the guest is on a bridge that the agent
# makes, and removes. Nothing is left running. `make demo` builds what this needs.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)
dir=$here/target/demo
PATH=$here/target/debug:$PATH
export PATH
rm -rf "$dir" && mkdir -p "$dir"

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || title() { printf '\n== %s\n' "$*"; }
run() { echo "\$ $*"; "$@"; }
# Lines of a stream, told apart from the rest: no carriage returns, no terminal codes.
stream() { sed -u "s/\r//g; s/\x1b\[[0-9;?]*[A-Za-z]//g; s/^/        $1 | /"; }

agent= watcher= follower=
clean_up() {
    status=$?
    trap - EXIT INT TERM
    for pid in $watcher $follower; do kill "$pid" 2>/dev/null || true; done
    if [ -n "$agent" ]; then
        # The agent leaves guests running when it stops; this one is to go with the demo.
        for uuid in $(vmadm list -p -o uuid 2>/dev/null); do vmadm delete "$uuid" 2>/dev/null || true; done
        kill "$agent" 2>/dev/null || true
        wait "$agent" 2>/dev/null || true
    fi
    if [ "$status" != 0 ]; then
        echo "The demo failed. The agent's log:" >&2
        cat "$dir/agent.log" >&2 || true
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

title "Certificates"
if [ -e certs/ca.key ]; then
    echo "certs/ already exists"
else
    run zoneward pki init --dir certs
fi

cat >"$dir/zoneward.toml" <<TOML
zones_dir = "$dir/zones"
state_dir = "$dir/state"
run_dir = "$dir/run"
listen = "127.0.0.1:0"

[zone]
# A demo runs anywhere; vmadm host says which limits have no effect.
limits = "best-effort"

[network]
prefix = "zd"

[tls]
dir = "$here/certs"
TOML
title "What this host can do"
run zoneward --config target/demo/zoneward.toml doctor || true

title "The agent, with an endpoint for TLS 1.3 and client certificates"
echo "\$ zoneward serve --config target/demo/zoneward.toml &"
zoneward serve --config "$dir/zoneward.toml" >"$dir/agent.log" 2>&1 &
agent=$!
port=
for _ in $(seq 100); do
    port=$(sed -n 's/.*serving TLS address=127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/agent.log")
    [ -n "$port" ] && grep -q 'serving socket' "$dir/agent.log" && break
    kill -0 "$agent" 2>/dev/null || exit 1
    sleep 0.1
done
ZONEWARD_ENDPOINT=https://127.0.0.1:$port
ZONEWARD_CERTS=$here/certs
export ZONEWARD_ENDPOINT ZONEWARD_CERTS
echo "serving at $ZONEWARD_ENDPOINT"
run vmadm host
run vmadm nic-tags

title "A VM from a machine JSON"
cat >"$dir/vmspec.json" <<JSON
{"brand":"kvm","vcpus":1,"autoboot":false,"ram":1024,"resolvers":["208.67.222.222","208.67.220.220"],"disks":[{"boot":true,"model":"virtio","size":40960}],"nics":[{"nic_tag":"admin","model":"virtio","ip":"10.88.88.51","netmask":"255.255.255.0","gateway":"10.88.88.1","primary":1}]}
JSON
mkfifo "$dir/events"
stream events <"$dir/events" &
vmadm events >"$dir/events" &
watcher=$!
echo "\$ vmadm create < vmspec.json"
created=$(vmadm create <"$dir/vmspec.json" 2>&1) || { echo "$created" >&2; exit 1; }
echo "$created"
uuid=${created#Successfully created VM }
run vmadm list

title "An ISO into its zone, and boot from it"
run vmadm put-file "$uuid" target/guest/tiny.iso /tiny.iso
run vmadm -v boot "$uuid" order=cd,once=d cdrom=/tiny.iso,ide
run vmadm info "$uuid" vnc
mkfifo "$dir/typed" "$dir/console"
stream console <"$dir/console" &
vmadm console "$uuid" <"$dir/typed" >"$dir/console" &
follower=$!
exec 3>"$dir/typed"

# Waits until the console has printed something.
printed() {
    for _ in $(seq 600); do
        vmadm console --log "$uuid" 2>/dev/null | tr -d '\r' | grep -qaF "$1" && return 0
        kill -0 "$agent" 2>/dev/null || return 1
        sleep 0.3
    done
    echo "The guest never printed: $1" >&2
    return 1
}
printed '/ # '

title "A command typed into the guest's shell, through the agent"
echo 'uname -sr; echo "the answer is $((6 * 7))"' >&3
printed 'the answer is 42'

if vmadm nic-tags | grep -q etherstub; then
    title "Its address, from the agent: there is no DHCP server"
    echo lease >&3
    printed 'LEASE: 10.88.88.51'
fi

title "A picture of its screen"
run vmadm screenshot "$uuid" target/demo/screen.png

title "Where the time of the boot went"
run vmadm boot-log "$uuid"

title "Stop by the ACPI power button, and delete"
run vmadm stop "$uuid" -t 120
exec 3>&-
run vmadm delete "$uuid"
run vmadm list

title "Done"
echo "The guest's screen: target/demo/screen.png"
