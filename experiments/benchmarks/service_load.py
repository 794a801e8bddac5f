"""Load test of the service: concurrent clients that post pictures, and damaged request bodies.

    python experiments/benchmarks/service_load.py load medsegdiff-lite_synthetic.tiny --requests 1000 --clients 8
    python experiments/benchmarks/service_load.py damaged medsegdiff-lite_synthetic.tiny --bodies 10000 --seed 0

``load`` starts ``diffmedseg serve`` as a separate process. It prints the number of requests by status, their times, and
the server's memory after every tenth of the requests. ``damaged`` sends bodies with changed, cut, doubled or removed
bytes to the application in this process. It prints the number of bodies by status, and checks that each body with
status 200 contains a whole picture.
"""

import argparse
import collections
import io
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

SAMPLE = Path(__file__).parents[2] / "zoo" / "sample.png"
_BOUNDARY = "diffmedseg-boundary"


def resident_megabytes(pid: int) -> float:
    """Return the memory of a process, from Linux's /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, seconds: float = 600) -> None:
    """Wait until a server responds."""
    due = time.monotonic() + seconds
    while time.monotonic() < due:
        try:
            httpx.get(f"{address}/health", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer within {seconds:g} seconds.")


def load(options: argparse.Namespace) -> None:
    """Post pictures from several clients at the same time."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "diffmedseg", "serve", options.model, "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        wait_for(address)
        picture, fields = SAMPLE.read_bytes(), {"num_samples": options.num_samples, "num_steps": options.num_steps}
        statuses: collections.Counter[int] = collections.Counter()
        times: list[float] = []
        memory = [(0, resident_megabytes(server.pid))]
        lock, clients = threading.Lock(), threading.local()

        def post(number: int) -> None:
            if not hasattr(clients, "client"):
                clients.client = httpx.Client(timeout=300)
            start = time.perf_counter()
            files = {"files": (f"scan{number}.png", picture, "image/png")}
            answer = clients.client.post(f"{address}/segment", files=files, data=fields)
            with lock:
                statuses[answer.status_code] += 1
                times.append(time.perf_counter() - start)
                if len(times) % max(options.requests // 10, 1) == 0:
                    memory.append((len(times), resident_megabytes(server.pid)))

        start = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as pool:
            list(pool.map(post, range(options.requests)))
        seconds = time.perf_counter() - start
        print(f"{options.requests} requests, {options.clients} clients, {seconds:.0f} s: statuses {dict(statuses)}")
        print(f"seconds for an answer: median {statistics.median(times):.2f}, largest {max(times):.2f}")
        print("MB after requests: " + ", ".join(f"{count}: {megabytes:.0f}" for count, megabytes in memory))
        print(json.dumps(httpx.get(f"{address}/health").json()))
    finally:
        server.terminate()
        server.wait(30)


def whole_body(picture: bytes) -> bytes:
    """Return a form with a picture and all fields, in the format of browsers."""
    fields = {
        "answer": "json",
        "samples": "false",
        "num_samples": "1",
        "num_steps": "1",
        "threshold": "0.5",
        "seed": "3",
    }
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="scan.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return b"".join([*parts, head.encode(), picture, f"\r\n--{_BOUNDARY}--\r\n".encode()])


def damage(body: bytes, rng: random.Random) -> bytes:
    """Damage a body in one to four places: change bits, bytes or form text, or cut, double or remove parts."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(len(changed), 1))
        # Half of all changes are in the form itself, which is shorter than the picture.
        at = at if rng.random() < 0.5 else rng.randrange(min(len(changed), 900) or 1)
        length = min(2 ** rng.randint(0, 10), len(changed) - at)
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif kind == 5:
            changed[at:at] = rng.choice(
                [b"\r\n", b"--" + _BOUNDARY.encode(), b"\0", b"\xff\xfe", b'"', b"name=", b"1e999"]
            )
        else:
            changed[at : at + length] = b"\0" * length
    return bytes(changed)


def holds_a_picture(body: bytes) -> bool:
    """Return whether the form of a body still contains a picture that can be decoded."""
    from PIL import Image

    start = body.find(b"\x89PNG")
    try:
        with Image.open(io.BytesIO(body[start:])) as image:
            image.load()
        return start >= 0
    except Exception:
        return False


def damaged(options: argparse.Namespace) -> None:
    """Send damaged bodies."""
    from fastapi.testclient import TestClient

    from diffmedseg.service.limits import Limits
    from diffmedseg.service.server import Service, create_app
    from diffmedseg.zoo import load_model

    rng, body = random.Random(options.seed), whole_body(SAMPLE.read_bytes())
    service = Service(load_model(options.model), options.model, "", "", Limits())
    statuses: collections.Counter[str] = collections.Counter()
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        assert client.post("/segment", content=body, headers=headers).status_code == 200
        for number in range(options.bodies):
            changed = damage(body, rng)
            status = client.post("/segment", content=changed, headers=headers).status_code
            whole = status == 200 and holds_a_picture(changed)
            statuses["200, the picture is whole" if whole else str(status)] += 1
            if number % 500 == 499:
                print(f"{number + 1}: {dict(statuses)}", flush=True)
            if status >= 500 or (status == 200 and not whole):
                Path(f"damaged_{number}.bin").write_bytes(changed)
    print(f"{options.bodies} damaged bodies, seed {options.seed}: {dict(statuses)}")
    sys.exit(any(name == "200" or name.startswith("5") for name in statuses))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    load_parser = commands.add_parser("load")
    load_parser.add_argument("model")
    load_parser.add_argument("--requests", type=int, default=1000)
    load_parser.add_argument("--clients", type=int, default=8)
    load_parser.add_argument("--num_samples", type=int, default=2)
    load_parser.add_argument("--num_steps", type=int, default=2)
    load_parser.set_defaults(run=load)
    damaged_parser = commands.add_parser("damaged")
    damaged_parser.add_argument("model")
    damaged_parser.add_argument("--bodies", type=int, default=10_000)
    damaged_parser.add_argument("--seed", type=int, default=0)
    damaged_parser.set_defaults(run=damaged)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
