"""Opens so many tunnels through a proxy, asks once in each, and prints the proxy's resident MiB while
they are all open: connections.py PROXY PORT TARGET COUNT PID"""

import socket
import ssl
import sys

proxy, port, target, count, pid = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
host = target.split(":")[0]
kept = []
for _ in range(int(count)):
    plain = socket.create_connection((proxy, int(port)))
    plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert b" 200 " in plain.recv(4096)
    tls = context.wrap_socket(plain, server_hostname=host)
    tls.sendall(f"GET /get HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    assert b" 200 " in tls.recv(4096)
    kept.append(tls)
with open(f"/proc/{pid}/status") as status:
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS")))
