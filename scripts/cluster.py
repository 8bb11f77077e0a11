"""Three Highwater nodes and a MinIO on this machine, until Ctrl-C: `make cluster`.

    cluster.py HIGHWATER MINIO DIRECTORY

Ports: node N serves Kafka at 1N092, gRPC at 1N093, HTTP at 1N094; MinIO at 19000. What is in DIRECTORY stays there:
started again, the cluster goes on where it was.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

NODES = (1, 2, 3)
MINIO_PORT = 19000
USER, PASSWORD, BUCKET = "highwater", "highwater-secret", "highwater"
READY_SECONDS_MAX = 120


def port(node, door):
    return 10_000 + node * 1_000 + {"kafka": 92, "grpc": 93, "http": 94}[door]


def address(node, door):
    return f"127.0.0.1:{port(node, door)}"


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait(what, url, process, log):
    for _ in range(READY_SECONDS_MAX * 10):
        if answers(url):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"{what} is not ready; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-5:]))


def start(command, log, environment):
    with open(log, "ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)


def main(highwater, minio, directory):
    directory = Path(directory)
    (directory / "minio" / BUCKET).mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HIGHWATER_", "AWS_", "MINIO_"))}
    store = environment | {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off"}
    nodes = environment | {
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_REGION": "us-east-1",
    }
    running = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        log = directory / "minio.log"
        command = [minio, "server", "--address", f"127.0.0.1:{MINIO_PORT}", directory / "minio"]
        running.append(start(command, log, store))
        wait("MinIO", f"http://127.0.0.1:{MINIO_PORT}/minio/health/ready", running[0], log)
        members = ",".join(f"{node}={address(node, 'grpc')}" for node in NODES)
        for node in NODES:
            command = [highwater, "serve", "--node-id", str(node), "--data-dir", directory / f"node-{node}"]
            command += [part for door in ("kafka", "grpc", "http") for part in (f"--{door}", address(node, door))]
            command += ["--coordinators", members, "--rack", f"rack-{node}"]
            command += ["--object-store", f"s3://{BUCKET}/tier", "--s3-endpoint", f"http://127.0.0.1:{MINIO_PORT}"]
            command += ["--default-replication-factor", "3"]
            running.append(start(command, directory / f"node-{node}.log", nodes))
        for node, process in zip(NODES, running[1:]):
            wait(f"node {node}", f"http://{address(node, 'http')}/readyz", process, directory / f"node-{node}.log")
        print(f"MinIO    http://127.0.0.1:{MINIO_PORT}  bucket {BUCKET}, user {USER}, password {PASSWORD}")
        for node, process in zip(NODES, running[1:]):
            doors = "  ".join(f"{door} {address(node, door)}" for door in ("kafka", "grpc", "http"))
            print(f"node {node}   {doors}  pid {process.pid}  log {directory}/node-{node}.log")
        print(f"clients  bootstrap.servers={','.join(address(node, 'kafka') for node in NODES)}")
        print(f"status   {highwater} cluster status --grpc {address(1, 'grpc')}")
        print("Ctrl-C ends it; kill -9 a node to see another one lead.", flush=True)
        while any(process.poll() is None for process in running[1:]):
            time.sleep(0.5)
        print("every node has ended")
    except KeyboardInterrupt:
        print()
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
