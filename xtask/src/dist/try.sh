#!/bin/bash
# The package on a Debian 12 under its own systemd: `cargo xtask dist --try` boots this in qemu.
# Each step says `try: ok` or `try: FAILED`; the journal follows what failed.
exec >/dev/ttyS1 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

expect() { # name, command…
  local name=$1; shift
  if "$@"; then echo "try: ok $name"; else echo "try: FAILED $name"; fi
}
from_client() { ip netns exec client "$@"; }
status_of() { # curl arguments…
  from_client curl -sk -o /dev/null -w '%{http_code}' --max-time 20 "$@"
}
answers() { [ "$(status_of -H "X-API-Key: $key" https://192.0.2.1:8443/)" = 200 ]; }
is_active() { [ "$(systemctl is-active clawsec)" = active ]; }
is_silent_to_strangers() {
  ! from_client timeout 3 bash -c 'exec 3<>/dev/tcp/198.51.100.1/8443' 2>/dev/null
}
runs_contained() {
  from_client curl -sk --max-time 60 -H "Authorization: Bearer $key" \
    --json '{"tool":"exec","args":{"command":"id; hostname"}}' \
    https://192.0.2.1:8443/tools/invoke | grep -q 'uid=.*sandbox'
}

insmod /root/veth.ko
ip netns add client
ip link add eth0 type veth peer name eth0 netns client
for address in 192.0.2.1 198.51.100.1; do ip addr add $address/24 dev eth0; done
for address in 192.0.2.2 198.51.100.2; do ip -n client addr add $address/24 dev eth0; done
ip link set eth0 up
ip -n client link set eth0 up
# What is protected.
mkdir /srv/www
echo gateway >/srv/www/index.html
busybox httpd -h /srv/www -p 127.0.0.1:18789

expect "installs" dpkg -i /root/clawsec.deb
expect "makes its two users" getent passwd clawsec clawsec-sbx
expect "starts nothing unconfigured" [ "$(systemctl is-active clawsec)" = inactive ]
expect "has manual pages and completions" \
  [ -e /usr/share/man/man8/clawsec-audit-tail.8.gz -a -e /usr/share/bash-completion/completions/clawsec ]

key=$(clawsec init --name claw.example.org | grep -o 'clawsec_[A-Za-z0-9_-]*' | head -1)
expect "init prints a key" [ -n "$key" ]
file=/etc/clawsec/clawsec.json
sed -i 's|sandbox: { enabled: true,|sandbox: { enabled: true, provider: "native",|' $file
sed -i 's|allowedIPs: \[|allowedIPs: [ "192.0.2.2/32",|' $file
sed -i 's|rateLimit: { enabled: true, requests: 60,|rateLimit: { enabled: true, requests: 600,|' $file
expect "check finds nothing critical" sh -c 'clawsec check | grep -q "^0 critical"'

expect "starts, and is ready when systemd says so" sh -c 'systemctl start clawsec'
expect "answers who may come in" answers
expect "is silent to strangers" is_silent_to_strangers
expect "runs tools contained" runs_contained
expect "says what it enforces" \
  sh -c 'systemctl show -p StatusText clawsec | grep -q "filtering eth0 (native)"'

systemctl reload clawsec
sleep 5
expect "reloads" sh -c 'systemctl show -p StatusText clawsec | grep -q "generation 2"'

(
  for _ in $(seq 400); do
    from_client timeout 0.2 bash -c 'exec 3<>/dev/tcp/198.51.100.1/8443' 2>/dev/null && echo in
  done >/root/strangers
) &
probes=$!
before=$(systemctl show -p MainPID --value clawsec)
expect "upgrades" dpkg -i /root/clawsec.deb
expect "is another process then" [ "$(systemctl show -p MainPID --value clawsec)" != "$before" ]
wait $probes
expect "lets no stranger in meanwhile" [ ! -s /root/strangers ]
expect "answers after the upgrade" answers

clawsec render systemd >/etc/systemd/system/clawsec.service
systemctl daemon-reload
expect "starts by the unit that it renders" sh -c 'systemctl restart clawsec'
expect "answers by that unit" answers
expect "runs tools contained by that unit" runs_contained

before=$(systemctl show -p MainPID --value clawsec)
gateway=$(clawsec status --json | sed -n 's/.*"gateway_pid": \([0-9]*\).*/\1/p')
kill -STOP "$gateway"
for _ in $(seq 120); do
  [ "$(systemctl show -p MainPID --value clawsec)" != "$before" ] && is_active && break
  sleep 1
done
expect "is started again where it hangs" [ "$(systemctl show -p NRestarts --value clawsec)" = 1 ]
expect "answers again" answers

kill -KILL "$(systemctl show -p MainPID --value clawsec)"
expect "is silent to strangers when killed" is_silent_to_strangers

rm /etc/systemd/system/clawsec.service
expect "is removed" dpkg -r clawsec
expect "takes its filter along" sh -c '! ip link show eth0 | grep -q xdp && [ ! -e /sys/fs/bpf/clawsec ]'
expect "leaves its configuration" [ -e $file ]
expect "is purged" dpkg -P clawsec
expect "leaves the log alone" \
  sh -c '[ ! -e /etc/clawsec ] && [ ! -e /var/lib/clawsec ] && [ -s /var/log/clawsec/audit.log ]'
echo "try: journal"
journalctl -u clawsec --no-pager | tail -n 40
echo "try: done"
systemctl poweroff -f -f
