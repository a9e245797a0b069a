"""Times server-sent events from when the server writes them to when the client has them, in ms:
events.py PROXY:PORT|- TARGET COUNT prints the median and the 99th percentile. The server behind the
target hands /events on to 127.0.0.1:18445, where this script is the server, too."""

import re
import socket
import ssl
import statistics
import sys
import threading
import time

proxy, target, count = sys.argv[1], sys.argv[2], int(sys.argv[3])


def serve(listener):
    stream, _ = listener.accept()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while b"\r\n\r\n" not in stream.recv(65536):
        pass
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    for _ in range(count):
        time.sleep(0.01)
        stream.sendall(f"data: {time.monotonic_ns()}\n\n".encode())
    stream.close()


listener = socket.create_server(("127.0.0.1", 18445))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
host, port = target.split(":")
via = proxy.split(":") if proxy != "-" else ("127.0.0.1", port)
plain = socket.create_connection((via[0], int(via[1])))
plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if proxy != "-":
    plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert b" 200 " in plain.recv(4096)
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
stream = context.wrap_socket(plain, server_hostname=host)
stream.sendall(f"GET /events HTTP/1.1\r\nHost: {target}\r\nAccept: text/event-stream\r\n\r\n".encode())
delays, text = [], b""
while len(delays) < count:
    piece = stream.recv(65536)
    now = time.monotonic_ns()
    if not piece:
        sys.exit(f"{len(delays)} of {count} events came: {text[-200:]!r}")
    text += piece
    whole, separator, text = text.rpartition(b"\n\n")
    delays += [(now - int(sent)) / 1e6 for sent in re.findall(rb"data: (\d+)", whole + separator)]
print(f"{statistics.median(delays)} {sorted(delays)[int(len(delays) * 0.99)]}")
