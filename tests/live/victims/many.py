# SPDX-License-Identifier: MIT
"""A program with a million blocks that ends as its argument says, when it is told to by a line."""
import os
import signal
import sys

print("ready")
sys.stdout.flush()
sys.stdin.readline()  # traced by now
held = [object() for _ in range(1000000)]
print("full")
sys.stdout.flush()
sys.stdin.readline()
if sys.argv[1] == "_exit":
    os._exit(0)
elif sys.argv[1] == "exec":
    os.execv(sys.executable, [sys.executable, "-c", "pass"])
elif sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[1] == "fork":
    child = os.fork()
    if child != 0:
        os._exit(os.waitpid(child, 0)[1])
