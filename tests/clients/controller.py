"""A controller of our own on loopback, and what all tests of this folder share."""

import atexit
import http.client
import logging
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

# scripts/test-clients.sh sets it.
EVENKEEL = os.environ.get("EVENKEEL_BIN", "evenkeel")
USER = "admin"
PASSWORD = "for this test only"
API_VERSION = "30.2.1"

# avisdk warns of self-made certificates at every session, and of what the tests provoke.
logging.getLogger("avi.sdk").setLevel(logging.CRITICAL + 1)

# Whoever ends the tests ends what they started: an interrupt runs the clean-ups, a bare TERM would not.
signal.signal(signal.SIGTERM, signal.default_int_handler)


def wait_for(what, look, holds=bool, seconds=30):
    """What `look` gives, once it holds; fails with what was seen last."""
    until = time.monotonic() + seconds
    while not holds(seen := look()):
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds} s; last seen: {seen!r}")
        time.sleep(0.05)
    return seen


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Controller:
    """`evenkeel controller` with a data folder that is gone afterwards."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="evenkeel-clients-")
        self.path = pathlib.Path(self.folder.name)
        self.port = free_port()
        self.engines_port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"https://{self.address}"
        (self.path / "password").write_text(PASSWORD)
        self.process = None
        self.start()
        atexit.register(self.stop)

    def start(self):
        command = [
            EVENKEEL, "controller", "--data-dir", str(self.path / "data"),
            "--listen-api", self.address, "--listen-engines", f"127.0.0.1:{self.engines_port}",
            "--admin-password-file", str(self.path / "password"),
        ]
        with open(self.path / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("the controller answers", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the controller ended: {(self.path / 'log').read_text()}")
        connection = http.client.HTTPSConnection(self.address, context=ssl._create_unverified_context(), timeout=5)
        try:
            connection.request("GET", "/api/cluster/status")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        self.stop()
        atexit.unregister(self.stop)
        self.folder.cleanup()


class ControllerTest(unittest.TestCase):
    """Tests that share a controller: one per class."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.controller = Controller()
        cls.addClassCleanup(cls.controller.close)
