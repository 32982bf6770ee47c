#!/usr/bin/env python3
"""A gRPC client that is not ours: asks a node through reflection only, with no generated code.

    grpc_client.py NACKCAST [DIRECTORY]
    grpc_client.py --alert ADDRESS KIND

NACKCAST is the program. It starts a sender on the loopback interface, finds out by server reflection what the node
offers, reads status and health, makes something go wrong, and reads, follows and acknowledges the alert.
With --alert it reads one alert of a node that runs, and prints it.
Needs: pip install grpcio grpcio-reflection
"""

import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

PATIENCE = 60


class Node:
    """Calls methods by name; messages are dictionaries of fields."""

    def __init__(self, channel):
        self.channel = channel
        self.reflection = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.reflection)

    def call(self, service, method, /, **fields):
        found = self.pool.FindServiceByName(service).methods_by_name[method]
        request = GetMessageClass(found.input_type)(**fields)
        decode = GetMessageClass(found.output_type).FromString
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        stub = kind(f"/{service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=decode)
        return stub(request, timeout=PATIENCE)

    def admin(self, method, /, **fields):
        return self.call("nackcast.v1.Admin", method, **fields)

    def alerts(self, method, /, **fields):
        return self.call("nackcast.v1.Alerts", method, **fields)


def until(what, look):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"waited in vain until {what}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(node, source):
    services = set(node.reflection.get_services())
    wanted = {"nackcast.v1.Admin", "nackcast.v1.Alerts", "grpc.health.v1.Health"}
    assert wanted <= services, services
    for service in ("", "nackcast.v1.Admin", "nackcast.v1.Alerts"):
        assert node.call("grpc.health.v1.Health", "Check", service=service).status == 1, service

    status = until("the node serves", lambda: served(node))
    assert status.role == "sender" and [c.name for c in status.channels] == ["news"], status
    watched = node.admin("Watch", interval_ms=500)
    assert next(watched).node == status.node
    watched.cancel()
    objects = node.admin("Objects").objects
    assert any(o.path == "first" for o in objects), objects

    try:
        node.admin("Pause", channel="sport")
        raise SystemExit("a channel that does not exist was paused")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert "news" in error.details(), error
        assert any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata()), error

    assert not node.alerts("List").alerts
    followed = node.alerts("Follow")
    (source / "first").unlink()
    problems = node.admin("Publish").results[0].problems
    assert problems and "mounted" in problems[0], problems
    alert = next(followed)
    assert alert.kind == "content-left-out" and alert.check and alert.count == 1, alert
    followed.cancel()
    assert [a.id for a in node.alerts("List").alerts] == [alert.id]
    assert node.admin("Status").alerts == 1
    assert node.alerts("Acknowledge", ids=[alert.id]).acknowledged == 1
    assert not node.alerts("List").alerts and node.admin("Status").alerts == 0


def served(node):
    try:
        status = node.admin("Status")
    except grpc.RpcError:
        return None
    return status if status.channels[0].state == "idle" else None


def read_alert(address, kind):
    # A socket's path is no authority.
    with grpc.insecure_channel(address, options=[("grpc.default_authority", "localhost")]) as channel:
        node = Node(channel)
        found = [alert for alert in node.alerts("List").alerts if alert.kind == kind]
    assert found and found[0].text and found[0].check, found
    print(found[0].kind, found[0].text)


def main():
    if sys.argv[1] == "--alert":
        return read_alert(*sys.argv[2:])
    program = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        place = pathlib.Path(place)
        source = place / "source"
        source.mkdir()
        (source / "first").write_bytes(b"content" * 1000)
        new = ["channel", "new", "news", "--out", str(place / "news.key")]
        subprocess.run([program, *new], check=True, stdout=subprocess.DEVNULL)
        address = f"127.0.0.1:{free_port()}"
        send = ["send", "--channel", f"{place / 'news.key'}={source}", "--interface", "lo", "--listen", "127.0.0.1:0"]
        send += ["--state", str(place / "state"), "--admin", address, "--no-watch"]
        with open(place / "log", "w") as log:
            sender = subprocess.Popen([program, *send], stdout=log, stderr=log)
        try:
            until("the node listens", lambda: listens(address))
            with grpc.insecure_channel(address) as channel:
                check(Node(channel), source)
        except BaseException:
            print((place / "log").read_text(), file=sys.stderr)
            raise
        finally:
            sender.terminate()
            sender.wait()
    print("a client that is not ours: status, health, objects, errors with details, alerts: all as they should be")


def listens(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


if __name__ == "__main__":
    main()
