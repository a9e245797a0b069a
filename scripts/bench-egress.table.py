"""The tables of scripts/bench-egress: table.py FOLDER ROUNDS FULL_RSS MITM_RSS IDLE_RSS BUSY_RSS
HUGE_GIB HUGE_RSS HUGE_SPEED"""

import json
import statistics
import sys

folder, rounds = sys.argv[1], int(sys.argv[2])
full_rss, mitm_rss, idle_rss, busy_rss = map(float, sys.argv[3:7])
huge_gib, huge_rss, huge_speed = map(float, sys.argv[7:10])


def read(kind, connections, peer):
    runs = []
    for n in range(1, rounds + 1):
        with open(f"{folder}/load.{kind}.{connections}.{peer}.{n}") as file:
            run = json.load(file)
        codes = run["statusCodeDistribution"]
        assert set(codes) == {"200"}, f"{kind} {connections} {peer}: {codes} {run['errorDistribution']}"
        runs.append(run)
    return runs


def rate(kind, connections, peer):
    return statistics.median(run["summary"]["requestsPerSec"] for run in read(kind, connections, peer))


def ratio(kind, connections, one, other):
    pairs = zip(read(kind, connections, one), read(kind, connections, other))
    return statistics.median(
        a["summary"]["requestsPerSec"] / b["summary"]["requestsPerSec"] for a, b in pairs
    )


def latency(kind, connections, peer, percentile):
    return statistics.median(
        run["latencyPercentiles"][percentile] * 1000 for run in read(kind, connections, peer)
    )


def row(what, figure, target="", good=True):
    print(f"| {what} | {figure} | {target} | {'' if not target else 'ok' if good else 'MISSED'} |")


print("| requests/s | no proxy | egress | egress, no scan | mitmproxy |\n|---|---|---|---|---|")
for kind in ("get", "post"):
    for connections in (8, 32):
        cells = [f"{rate(kind, connections, peer):,.0f}" for peer in ("none", "full", "unscanned", "mitm")]
        print(f"| {kind.upper()}, {connections} connections | " + " | ".join(cells) + " |")
print("\n| what | figure | target | |\n|---|---|---|---|")
for kind, least in (("get", 30), ("post", 20)):
    for connections in (8, 32):
        times = ratio(kind, connections, "full", "mitm")
        row(f"{kind.upper()}, {connections} connections: egress / mitmproxy", f"{times:.1f}", f">= {least}", times >= least)
        part = ratio(kind, connections, "full", "unscanned")
        row(f"{kind.upper()}, {connections} connections: with / without the scan", f"{part:.2f}", ">= 0.7", part >= 0.7)
added = latency("one", 1, "full", "p50") - latency("one", 1, "none", "p50")
row("median latency added, 1 connection", f"{added:.3f} ms", "<= 0.15 ms", added <= 0.15)
for connections in (8, 32):
    p99 = latency("half", connections, "full", "p99")
    bare = latency("half", connections, "none", "p99")
    figure = f"{p99:.2f} ms (no proxy at that rate: {bare:.2f})"
    row(f"p99 at half load, {connections} connections", figure, "< 2 ms", p99 < 2)
events = {}
for peer in ("none", "full"):
    with open(f"{folder}/events.{peer}") as file:
        events[peer] = list(map(float, file.read().split()))
for at, name in ((0, "median"), (1, "99th percentile")):
    late = events["full"][at] - events["none"][at]
    row(f"a streamed event later by, {name}", f"{late:.3f} ms", "< 1 ms", late < 1)
row("resident, idle", f"{idle_rss:.1f} MiB", "<= 15 MiB", idle_rss <= 15)
row("resident, 1,000 connections", f"{busy_rss:.1f} MiB", "<= 60 MiB", busy_rss <= 60)
row("resident after the load (mitmproxy)", f"{full_rss:.1f} MiB ({mitm_rss:.0f})")
row(f"resident at most, one answer of {huge_gib:.0f} GiB", f"{huge_rss:.1f} MiB ({huge_speed / 2**20:.0f} MiB/s)")
through = ratio("pass", 8, "through", "squid")
row("passthrough, small answers: egress / squid", f"{through:.2f}", ">= 1", through >= 1)
large = ratio("large", 2, "through", "squid")
row("passthrough, 256 MiB answers: egress / squid", f"{large:.2f}", ">= 1", large >= 1)
