"""The voice process: the only folder that imports torch, and only where a model is really loaded."""

import os

# Threads that wait for each other by spinning starve whoever shares their cores: on two cores with one other
# process busy, a CSM frame took 3.4 s and takes 0.7 s so. Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
