"""What egress does, as a mitmproxy addon: rules by host, method and path; a credential put in; the
URL, the headers and the body scanned by the same patterns, with their keywords looked for first."""

import re
import tomllib

from mitmproxy import ctx, http

ALLOWED = {("GET", "/get"), ("GET", "/large"), ("POST", "/post")}


def go_to_python(pattern: str) -> str:
    """gitleaks' patterns are Go's: flags may stand anywhere, and \\z is the end."""
    flags = "".join(sorted(set("".join(re.findall(r"\(\?([ims]+)\)", pattern)))))
    pattern = re.sub(r"\(\?[ims]+\)", "", pattern).replace(r"\z", r"\Z")
    return f"(?{flags}){pattern}" if flags else pattern


class Egress:
    def load(self, loader):
        loader.add_option("rules", str, "", "a gitleaks file")
        loader.add_option("origin", str, "", "where the host is")

    def running(self):
        with open(ctx.options.rules, "rb") as file:
            rules = tomllib.load(file)["rules"]
        self.rules = []
        for rule in rules:
            try:
                pattern = re.compile(go_to_python(rule["regex"]).encode())
            except re.error:
                continue
            self.rules.append(([k.lower().encode() for k in rule.get("keywords", [])], pattern))

    def leaks(self, text: bytes) -> bool:
        lower = text.lower()
        for keywords, pattern in self.rules:
            if (not keywords or any(k in lower for k in keywords)) and pattern.search(text):
                return True
        return b"an-injected-token-for-the-bench" in text

    def server_connect(self, data):
        data.server.address = (ctx.options.origin, data.server.address[1])

    def request(self, flow: http.HTTPFlow):
        request = flow.request
        head = b"\n".join(name + b": " + value for name, value in request.headers.fields)
        if request.pretty_host != "bench.test" or (request.method, request.path) not in ALLOWED:
            flow.response = http.Response.make(403, b"refused")
        elif self.leaks(request.path.encode() + b"\n" + head) or self.leaks(request.content or b""):
            flow.response = http.Response.make(403, b"leak")
        else:
            request.headers["authorization"] = "Bearer an-injected-token-for-the-bench"


addons = [Egress()]
