//! What an agent can reach: egress, and nothing else. Whatever is not reached from inside is
//! reached by the same probe from elsewhere, so that the probe is known to see it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bottle_planner::words::Role;
use bottle_tests::host::{Host, Ran, docker, inspect, unique, until};
use serde_json::{Value, json};

use crate::outside::{
    From, MARK, Try, docker0, gateways, own_addresses, reached, resolvers, tcp_server, udp_server,
};
use crate::{agent, egress, manifest};

/// Runs `curl` in a container, with the proxy that the environment names.
fn curl(container: &str, words: &[&str]) -> Ran {
    let all = ["exec", container, "curl", "-sS", "-m", "20"];
    docker(&all.iter().chain(words).copied().collect::<Vec<_>>())
}

#[test]
fn nothing_but_egress_is_reached() {
    let (tcp, udp) = (tcp_server(), udp_server());
    let route = format!("{{host: api.example.test, port: {tcp}, address: {}}}", docker0());
    let host = Host::with_manifest(&manifest("", &route));
    let session = unique("walls");
    let plan = host.up(&session);
    let inside = agent(&session);

    let allowed = format!("http://api.example.test:{tcp}/");
    curl(&inside, &[&allowed]).code(0).prints(MARK);

    let before = own_addresses();
    let targets: BTreeSet<Ipv4Addr> = before.union(&gateways()).copied().collect();
    assert!(targets.contains(&docker0()), "{targets:?}");
    let mut tries: Vec<Try> =
        targets.iter().flat_map(|a| [Try::Tcp(*a, tcp), Try::Udp(*a, udp)]).collect();
    let internet = Ipv4Addr::new(1, 1, 1, 1);
    tries.extend([Try::Tcp(internet, 443), Try::Tcp(internet, 53)]);
    tries.push(Try::Name(internet, "example.com".into()));
    let proxy = Try::Tcp(plan.session.places[&Role::Egress].net, 9099);
    tries.push(proxy.clone());
    let from_inside = reached(From::Container(&inside), &tries);
    assert_eq!(from_inside, [proxy].into(), "the agent reaches more than egress");

    // The same probes see all of this host from egress's own network and from the default one.
    let after = own_addresses();
    let stable = || before.intersection(&after).copied();
    assert!(stable().any(|a| a != docker0()), "no address but docker0's: nothing is shown");
    let hosts: BTreeSet<Try> =
        stable().flat_map(|a| [Try::Tcp(a, tcp), Try::Udp(a, udp)]).collect();
    let hosts: Vec<Try> = hosts.into_iter().collect();
    for network in ["bridge", plan.session.out.name.as_str()] {
        let seen = reached(From::Network(network), &hosts);
        let gone = own_addresses();
        let missed: Vec<&Try> = hosts
            .iter()
            .filter(|one| !seen.contains(one))
            .filter(|one| matches!(one, Try::Tcp(a, _) | Try::Udp(a, _) if gone.contains(a)))
            .collect();
        assert!(missed.is_empty(), "the probe is blind for {missed:?} from {network}");
    }

    // No way around by IPv6 either.
    let six = docker(&["exec", &inside, "cat", "/proc/net/if_inet6"]);
    assert!(!six.out.contains("eth0"), "{}", six.out);
}

#[test]
fn one_session_does_not_reach_another() {
    let host = Host::with_manifest(&manifest("", ""));
    let (ours, theirs) = (unique("walls"), unique("walls"));
    let their_plan = host.up(&theirs);
    let (their_egress, their_agent) =
        (their_plan.session.places[&Role::Egress].net, their_plan.session.places[&Role::Agent].net);
    let listen = "$s = IO::Socket::INET->new(Listen => 9, LocalPort => 7777) or die; \
                  while ($c = $s->accept) { close $c }";
    let listening = ["exec", "-d", &agent(&theirs), "perl", "-MIO::Socket::INET", "-e", listen];
    docker(&listening).code(0);
    host.up(&ours);

    let out = their_plan.session.places[&Role::Egress].out.expect("egress has a way out");
    let route = "no.example.test".to_owned();
    let all = [
        Try::Tcp(their_egress, 9099),
        Try::Tcp(their_egress, 53),
        Try::Tcp(their_agent, 7777),
        Try::Tcp(out, 9099),
        Try::Name(their_egress, route),
    ];
    assert_eq!(reached(From::Container(&agent(&ours)), &all), BTreeSet::new());
    let own =
        [Try::Tcp(their_egress, 9099), Try::Tcp(their_egress, 53), Try::Tcp(their_agent, 7777)];
    let network = their_plan.session.net.name.as_str();
    until("a container beside them reaches them", || {
        reached(From::Network(network), &own) == BTreeSet::from(own.clone())
    });
}

#[test]
fn no_resolver_answers_but_for_what_is_granted() {
    let host =
        Host::with_manifest(&manifest("", "{host: api.example.test}, {host: '*.wild.test'}"));
    let session = unique("walls");
    let plan = host.up(&session);
    let inside = agent(&session);
    let own = plan.session.places[&Role::Egress].net;
    let engines = Ipv4Addr::new(127, 0, 0, 11);
    let mut places: BTreeSet<Ipv4Addr> = [docker0(), own, engines].into();
    places.extend(own_addresses());
    places.extend(resolvers());
    places.extend([Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(1, 1, 1, 1)]);
    let names = ["example.com", "leak.example.com", "bottle.example.test"];
    let mut tries = Vec::new();
    for (place, name) in places.iter().flat_map(|p| names.map(|n| (*p, n.to_owned()))) {
        tries.extend([Try::Name(place, name.clone()), Try::NameByTcp(place, name)]);
    }
    assert_eq!(reached(From::Container(&inside), &tries), BTreeSet::new());
    docker(&["exec", &inside, "getent", "hosts", "example.com"]).code(2);

    // The probes hear answers: egress's own, for what has a route, and the engine's resolver's.
    let granted = [
        Try::Name(own, "api.example.test".into()),
        Try::NameByTcp(own, "api.example.test".into()),
        Try::Name(own, "a.wild.test".into()),
    ];
    assert_eq!(reached(From::Container(&inside), &granted), granted.into());
    docker(&["exec", &inside, "getent", "hosts", "api.example.test"])
        .code(0)
        .prints(&own.to_string());
    let neighbour =
        [Try::Name(engines, egress(&session)), Try::NameByTcp(engines, egress(&session))];
    let out = plan.session.out.name.as_str();
    assert_eq!(reached(From::Network(out), &neighbour), neighbour.into());

    let log = host.read(&format!("root/state/{session}/egress/out/decisions.jsonl"));
    let refused = |line: &str| line.contains("leak.example.com") && line.contains("\"refuse\"");
    assert!(log.lines().any(refused), "{log}");
}

#[test]
fn egress_refuses_what_was_not_granted() {
    let port = tcp_server();
    let pinned = docker0();
    let routes = format!(
        "{{host: api.example.test, port: {port}, address: {pinned}, \
           allow: [{{access: read, paths: [/open/**]}}]}}, \
         {{host: inner.example.test, port: {port}}}"
    );
    let host = Host::with_manifest(&manifest("", &routes));
    let session = unique("walls");
    let plan = host.up(&session);
    let inside = agent(&session);
    let url = |host: &str, path: &str| format!("http://{host}:{port}{path}");
    let granted = url("api.example.test", "/open/a");
    curl(&inside, &[&granted]).code(0).prints(MARK);

    let pinned = pinned.to_string();
    let literal = url(&pinned, "/open/a");
    let refused = [
        (vec![url("other.example.test", "/open/a")], "no route names this host"),
        (vec![literal], "the target is an IP address"),
        (vec![url("api.example.test", "/closed")], "bottle refused"),
        (vec![url("api.example.test", "/open/../closed")], "bottle refused"),
        (vec!["-XPOST".into(), granted.clone()], "bottle refused"),
        (vec!["http://api.example.test/open/a".into()], "bottle refused"),
        (vec!["-HHost: other.example.test".into(), granted.clone()], "bottle refused"),
    ];
    for (words, why) in &refused {
        let words: Vec<&str> =
            ["--path-as-is"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let ran = curl(&inside, &words).code(0).prints("bottle refused").prints(why);
        assert!(!ran.out.contains(MARK), "{words:?} got through");
    }
    curl(&inside, &["https://other.example.test/"]).code(56).says("403");
    curl(&inside, &[&format!("https://{pinned}:{port}/")]).code(56).says("403");

    // A granted host whose name means a private address is refused, and with a pin it is not: the
    // name means a neighbour of egress, to whom egress has a way.
    let out = plan.session.out.name.as_str();
    let label = format!("dev.bottle.owner={}", host.owner());
    let serve = "use IO::Socket::INET; $s = IO::Socket::INET->new(Listen => 9, LocalPort => \
                 $ARGV[0]) or die; while ($c = $s->accept) { sysread $c, $_, 4096; print $c \
                 \"HTTP/1.0 200 OK\\r\\n\\r\\n\", $ARGV[1]; close $c }";
    let port_text = port.to_string();
    let neighbour = unique("neighbour");
    let started = docker(&[
        "run",
        "-d",
        "--name",
        &neighbour,
        "--label",
        &label,
        "--network",
        out,
        "--network-alias",
        "inner.example.test",
        "debian:bookworm-slim",
        "perl",
        "-e",
        serve,
        &port_text,
        MARK,
    ])
    .code(0);
    let inner = url("inner.example.test", "/");
    let ran = curl(&inside, &[&inner]).code(0).prints("bottle refused").prints("private");
    assert!(!ran.out.contains(MARK), "{}", ran.out);

    let its = inspect(started.out.trim());
    let its = its["NetworkSettings"]["Networks"][out]["IPAddress"].as_str().expect("an address");
    let with_pin = format!("{{host: inner.example.test, port: {port}, address: {its}}}");
    host.write("work/bottle.yaml", &manifest("", &with_pin));
    host.up(&session);
    until("the neighbour answers", || curl(&inside, &[&inner]).out.contains(MARK));

    let log = host.read(&format!("root/state/{session}/egress/out/decisions.jsonl"));
    let lines = log.lines().filter(|line| line.contains("\"refuse\"")).count();
    assert!(lines > refused.len(), "{log}");
}

#[test]
fn the_engine_is_told_to_hold_tight() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("walls");
    let plan = host.up(&session);
    let containers = [agent(&session), egress(&session)].map(|name| inspect(&name));
    for container in &containers {
        let settings = &container["HostConfig"];
        let name = &container["Name"];
        assert_eq!(settings["CapDrop"], json!(["ALL"]), "{name}");
        assert!(matches!(&settings["CapAdd"], Value::Null) || settings["CapAdd"] == json!([]));
        assert_eq!(settings["SecurityOpt"], json!(["no-new-privileges"]), "{name}");
        assert_eq!(settings["IpcMode"], "private", "{name}");
        assert_eq!(settings["Privileged"], false, "{name}");
        assert_eq!((&settings["PidMode"], &settings["UTSMode"]), (&json!(""), &json!("")));
        assert_eq!(settings["PortBindings"].as_object().map_or(0, serde_json::Map::len), 0);
        assert!(settings["Devices"].as_array().is_none_or(Vec::is_empty), "{name}");
        for limit in ["PidsLimit", "Memory", "NanoCpus"] {
            assert!(settings[limit].as_i64().is_some_and(|n| n > 0), "{name} has no {limit}");
        }
        for mount in container["Mounts"].as_array().expect("a list") {
            let (place, source) = (mount["Destination"].as_str(), mount["Source"].as_str());
            let (place, source) = (place.expect("text"), source.expect("text"));
            assert!(!source.contains("docker.sock"), "{name} mounts {source}");
            let writable = place.ends_with("/out") || mount["Type"] == "volume";
            assert_eq!(mount["RW"], writable, "{name}: {place}");
            if mount["Type"] == "bind" {
                let own = source.starts_with(host.at("root").to_str().expect("UTF-8"));
                assert!(own, "{name} mounts {source}");
            }
        }
    }
    let [agents, egresses] = &containers;
    assert_eq!(agents["Config"]["User"], "1000:1000");
    let user = plan.session.sidecar_user;
    assert_eq!(egresses["Config"]["User"], format!("{}:{}", user.uid, user.gid));
    let networks = |of: &Value| -> Vec<String> {
        let map = of["NetworkSettings"]["Networks"].as_object().expect("a map");
        map.keys().cloned().collect()
    };
    let (net, out) = (plan.session.net.name.clone(), plan.session.out.name.clone());
    assert_eq!(networks(agents), vec![net.clone()]);
    assert_eq!(networks(egresses), [net.clone(), out]);
    assert_eq!(inspect(&net)["Internal"], true);

    // The kernel says so too.
    let status = docker(&["exec", &agent(&session), "cat", "/proc/self/status"]).code(0).out;
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line:?} is not in:\n{status}");
    }

    // The sidecar's image is one file from nothing.
    let image = inspect(&plan.session.sidecar_image);
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(image["Parent"], "");
    let shell = docker(&["exec", &egress(&session), "sh", "-c", "true"]);
    let told = format!("{}{}", shell.out, shell.err);
    assert!(!shell.ok() && told.contains("executable file not found"), "{told}");
}
