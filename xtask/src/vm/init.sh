#!/bin/sh
# The first and only process of the guest of `cargo xtask test --tier vm`.
# FILTER, SKIP and what begins with CLAWSEC_ come from the kernel's command line.
export PATH=/bin
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS1 2>&1
for program in mount insmod uname sleep cat sed poweroff; do
  busybox ln -s busybox "/bin/$program"
done
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
insmod /veth.ko
echo "guest: Linux $(uname -r)"
export CLAWSEC_BPF_OBJECT=/clawsec.o CLAWSEC_GOLDEN=/golden
skip=
for prefix in $(echo "$SKIP" | sed 's/,/ /g'); do
  skip="$skip --skip $prefix"
done
# shellcheck disable=SC2086
/tests "$FILTER" $skip --show-output
if [ -n "$CLAWSEC_BLESS" ]; then
  for file in /golden/*; do
    echo "guest: golden ${file##*/}"
    sed 's/^/| /' "$file"
  done
fi
poweroff -f
