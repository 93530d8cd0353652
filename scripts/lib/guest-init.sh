#!/bin/busybox sh
# The guest's first process. It runs the commands that arrive on a virtio-serial port and answers with their output;
# guest-channel.ts is the other end. Kernel parameter `virtnet.drivers=no` leaves virtio_net to be loaded by a command.
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1 </dev/null
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mkdir -p /run /tmp /var /root
/bin/busybox mount -t tmpfs -o size=80% tmp /tmp
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ln -sf /proc/mounts /etc/mtab
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
ip link set lo up
modprobe -a virtio_pci virtio_console
case " $(cat /proc/cmdline) " in *" virtnet.drivers=no "*) ;; *) modprobe virtio_net ;; esac

# One answer at a time on the port; the commands themselves run side by side.
cat >/bin/answer <<'SCRIPT'
#!/bin/sh
base64 -d </run/command.$1 >/run/script.$1
sh /run/script.$1 >/run/output.$1 2>&1 </dev/null
code=$?
{ flock 9; { printf '%s %s ' "$1" "$code"; base64 -w 0 /run/output.$1; echo; } >&3; } 9>/run/lock
rm -f /run/command.$1 /run/script.$1 /run/output.$1
SCRIPT
chmod +x /bin/answer

port=
while [ -z "$port" ]; do
  for name in /sys/class/virtio-ports/*/name; do
    [ -f "$name" ] && [ "$(cat "$name")" = virtnet.commands ] && port=/dev/$(basename "$(dirname "$name")")
  done
  [ -n "$port" ] || usleep 10000
done
exec 3<>"$port"
echo "ready $(cat /proc/uptime)" >&3
while :; do
  # The end of input only means that nobody is connected just now.
  while read -r id command <&3; do
    echo "$command" >/run/command.$id
    answer "$id" &
  done
  usleep 50000
done
