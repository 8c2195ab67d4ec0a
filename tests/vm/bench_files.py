"""What the container's bench writes into its disk: the unit's settings, and stand-ins for what a container has not."""

SOUND = "/run/bench-sound"
CONFIG = """
[panel]
kind = "gpio"
nurse_call_pin = "BOARD37"
acknowledge_seconds = 0.5
[audio]
kind = "card"
[voice]
socket = "/run/bedside/voice.sock"
[listen]
model = "embedded:whisper-tiny"
[memory]
file = "/var/lib/bedside/memory.db"
key = "/etc/bedside/memory.key"
[models]
folder = "/opt/models"
[safety]
folder = "/var/lib/bedside/safety"
socket = "/run/bedside/companion.sock"
emergency_number = "112"
crisis_number = "116 123"
device_name = "bench"
[log]
level = "debug"
"""
BEDSIDE = """#!/opt/bedside/.venv/bin/python
import sys
sys.path[:0] = ["/opt/bedside", "/opt/bench"]
from device.__main__ import main
sys.exit(main())
"""
DROP_IN = f"""[Unit]
After=bench-sound.service
[Service]
Environment=GPIOZERO_PIN_FACTORY=bench ALSA_CONFIG_PATH=/opt/bench/asound.conf
Environment=PULSE_SERVER=unix:{SOUND}/native PULSE_COOKIE={SOUND}/cookie XDG_CONFIG_HOME={SOUND}
CPUSchedulingPolicy=rr
CPUSchedulingPriority=5
"""
# The machine's other work is not what is measured: all of the device goes before it, the companion before the voice as on a device.
VOICE_DROP_IN = "[Service]\nNice=-5\n"
SOUND_UNIT = f"""[Service]
RuntimeDirectory=bench-sound
RuntimeDirectoryMode=0777
Environment=XDG_RUNTIME_DIR={SOUND}/own PULSE_RUNTIME_PATH={SOUND}/own XDG_CONFIG_HOME={SOUND}/own HOME={SOUND}/own
Environment=PULSE_SERVER=unix:{SOUND}/native
ExecStart=pulseaudio -n --daemonize=no --high-priority=no --realtime=no --use-pid-file=no --exit-idle-time=-1 --disallow-exit \\
  "--load=module-native-protocol-unix socket={SOUND}/native auth-anonymous=1" \\
  "--load=module-null-sink sink_name=speaker rate=48000 channels=1" \\
  "--load=module-null-sink sink_name=microphone rate=48000 channels=1"
ExecStartPost=sh -c 'until pactl set-default-source microphone.monitor && pactl set-default-sink speaker; do sleep 0.1; done'
ExecStartPost=chrt --all-tasks --rr --pid 6 $MAINPID
"""
TARGET = """[Unit]
Requires=basic.target bench-sound.service
Wants=systemd-journald.service bedside-companion.service bedside-voice.service
After=basic.target
AllowIsolate=yes
"""
