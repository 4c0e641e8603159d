"""Runs MiniStack for as long as somebody uses it.

Whoever uses the emulator holds a shared lock (flock) on `users.lock`. The kernel
drops that lock when its holder ends, however it ends, so the keeper needs no
process ids, heartbeats or signals: once it can lock the file exclusively, nobody
is left, and it saves its state and exits.

`emulator.json` says where the emulator listens. The keeper holds an exclusive
lock on that very file until it exits: a state file that can be locked belongs to
a keeper that is dead. It is removed under the exclusive lock on `users.lock`, so
a newcomer, who takes the shared lock before looking, sees either an emulator
that will stay or none at all.

Arguments: one JSON object, see `Launch` in src/emulator.rs.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request

# Exit codes that src/emulator.rs distinguishes.
PORT_TAKEN = 10
DATA_IN_USE = 11

DATA_LOCK_PATIENCE = 10.0
START_PATIENCE = 60.0


def listen(port):
    """Binds the loopback interface; port 0 lets the kernel choose a free one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except OSError as error:
        print(f"cannot listen on port {port}: {error}", file=sys.stderr)
        sys.exit(PORT_TAKEN)
    return listener


def lock_data(directory):
    """Waits until an emulator that still saves its state there has gone."""
    os.makedirs(directory, exist_ok=True)
    lock = open(os.path.join(directory, ".lock"), "w")
    deadline = time.monotonic() + DATA_LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(DATA_IN_USE)
            time.sleep(0.05)


def configure(port, data_dir):
    """Sets what MiniStack reads from the environment when it is imported."""
    os.environ.update(
        GATEWAY_PORT=str(port),
        MINISTACK_HOST="127.0.0.1",
        SERVICES="dynamodb,dynamodbstreams,events,sqs,cloudformation,sts",
        LOG_LEVEL="WARNING",
        SFTP_ENABLED="0",
        IOT_MTLS_ENABLED="0",
        # At its start and end MiniStack removes its containers: keep it from
        # those of other MiniStacks on this machine.
        DOCKER_HOST="unix:///nonexistent",
    )
    if data_dir:
        os.environ.update(PERSIST_STATE="1", STATE_DIR=data_dir)


def publish(path, state):
    """Writes the state file, locked from before it can be seen."""
    temporary = f"{path}.{os.getpid()}"
    file = open(temporary, "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump(state, file)
    file.flush()
    os.replace(temporary, path)
    return file


def wait_until_healthy(port):
    """Returns once MiniStack answers."""
    url = f"http://127.0.0.1:{port}/_ministack/health"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_PATIENCE
    while True:
        try:
            with direct.open(url, timeout=5) as reply:
                return json.load(reply)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def wait_until_unused(users_lock, grace, retire):
    """Returns when nobody has used the emulator for `grace` seconds.

    `retire` runs under the exclusive lock: a newcomer waits for it.
    """
    users = open(users_lock, "a")
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        if grace:
            fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(grace)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
        retire()
        users.close()
        return


def retire(path, published):
    """Removes the state file, unless a later keeper's stands in its place."""
    try:
        if os.path.samestat(os.stat(path), os.fstat(published.fileno())):
            os.unlink(path)
    except FileNotFoundError:
        pass


class Prompt:
    """asyncio for MiniStack's queues, which look every 100 ms whether a waiting receiver can have a message. AWS answers at once."""

    def __getattr__(self, name):
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds):
        await asyncio.sleep(min(seconds, 0.02))


def main():
    launch = json.loads(sys.argv[1])
    state_file = launch["state_file"]
    listener = listen(launch["port"])
    port = listener.getsockname()[1]
    data_lock = lock_data(launch["data_dir"]) if launch["data_dir"] else None
    configure(port, launch["data_dir"])

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app
    from ministack.services import sqs

    sqs.asyncio = Prompt()
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 1
    config.loglevel = "WARNING"

    # Kept open, and with it the lock, until this process ends.
    published = []

    async def run():
        loop = asyncio.get_running_loop()
        unused = asyncio.Event()

        def watch():
            try:
                wait_until_healthy(port)
                published.append(publish(state_file, {"port": port, "pid": os.getpid()}))
                wait_until_unused(
                    launch["users_lock"],
                    launch["grace"],
                    lambda: retire(state_file, published[0]),
                )
            finally:
                loop.call_soon_threadsafe(unused.set)

        loop.add_signal_handler(signal.SIGTERM, unused.set)
        threading.Thread(target=watch, daemon=True).start()
        await serve(app, config, shutdown_trigger=unused.wait)

    asyncio.run(run())
    if data_lock:
        data_lock.close()
    if launch["scratch"]:
        shutil.rmtree(launch["scratch"], ignore_errors=True)


main()
