//! Where the key is and is not, and what the gate's container can do.

use std::fs;

use bottle_tests::host::{docker, inspect};

use crate::World;

#[test]
fn the_key_is_in_no_place_that_can_be_read() {
    let world = World::ssh("gitkey", "");
    let key = fs::read_to_string(world.upstream.at("id")).expect("readable");
    let body: Vec<&str> = key.lines().filter(|line| !line.starts_with("---")).collect();
    let part = body[2];
    // What the engine knows, what is on the host, what the logs say.
    for name in [world.gate(), format!("bottle-{}", world.session)] {
        assert!(!inspect(&name).to_string().contains(part), "{name}");
        assert!(!docker(&["logs", &name]).err.contains(part), "{name}");
    }
    let mut state = bottle_tests::host::ran(
        std::process::Command::new("grep").args(["-rlF", part]).arg(world.host.at("root")),
        b"",
    );
    state.out.retain(|c| c != '\n');
    assert_eq!(state.out, "", "in a file of the state root");
    // In the gate's own container: no file, no environment, no command line.
    // In two halves, so that the command line that looks for it does not have it.
    let (one, two) = part.split_at(20);
    let script = format!(
        "key() {{ printf %s%s {one} {two}; }}; \
         grep -rlF -f <(key) / --exclude-dir=proc --exclude-dir=sys 2>/dev/null; \
         cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -acF -f <(key)"
    );
    let found = docker(&["exec", &world.gate(), "bash", "-c", &script]);
    assert_eq!(found.out.trim(), "0", "{}", found.out);
    // And from the agent's, nothing of the gate is reached but git daemon's port.
    let script = "for p in 22 9099 9100 9419; do timeout 1 bash -c \"exec 3<>/dev/tcp/git-gate/$p\" \
                  2>/dev/null && echo $p; done; ls /.bottle/run/*.agent 2>/dev/null; true";
    assert_eq!(world.inside(script).code(0).out, "");
    world.down();
}

#[test]
fn the_gate_has_no_way_out_of_its_own_and_no_privilege() {
    let world = World::ssh("gitwall", "");
    let gate = inspect(&world.gate());
    assert_eq!(gate["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(gate["HostConfig"]["Privileged"], false);
    assert_eq!(gate["HostConfig"]["CapDrop"], serde_json::json!(["ALL"]));
    let networks = gate["NetworkSettings"]["Networks"].as_object().expect("a map");
    let names: Vec<&String> = networks.keys().collect();
    assert_eq!(names, [&format!("bottle-net-{}", world.session)]);
    let image = gate["Config"]["Image"].as_str().expect("text");
    assert!(image.starts_with("bottle-gate:"), "{image}");
    let bridge = crate::hosts::bridge();
    let port = world.upstream.url();
    let port = port.rsplit_once("test:").and_then(|(_, rest)| rest.split('/').next());
    let port = port.expect("a port").to_owned();
    let direct = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{bridge}/{port}' && echo reached");
    let tried = docker(&["exec", &world.gate(), "bash", "-c", &direct]);
    assert!(!tried.out.contains("reached"), "the gate has a way of its own");
    let write = docker(&["exec", &world.gate(), "sh", "-c", "touch /x 2>&1; touch /usr/x 2>&1"]);
    assert!(write.out.matches("Read-only file system").count() == 2, "{}", write.out);
    // Through egress, to nowhere but its upstream; and the agent to nowhere at all.
    let connect = |to: &str| {
        format!(
            "exec 3<>/dev/tcp/egress/9099; printf 'CONNECT {to} HTTP/1.1\\r\\nHost: {to}\\r\\n\
             Connection: close\\r\\n\\r\\n' >&3; head -n 1 <&3"
        )
    };
    let upstream = format!("git.example.test:{port}");
    let head = |name: &str, to: &str| docker(&["exec", name, "bash", "-c", &connect(to)]).out;
    assert!(head(&world.gate(), &upstream).contains(" 200 "), "to upstream");
    assert!(head(&world.gate(), "git.example.test:443").contains(" 403 "), "another port");
    assert!(head(&world.gate(), "example.com:443").contains(" 403 "), "another host");
    let agent = format!("bottle-{}", world.session);
    assert!(head(&agent, &upstream).contains(" 403 "), "the agent");
    world.down();
}

/// Egress knows the gate by its address: nobody else can have it, not even while the gate is down and
/// not even as the agent container's root.
#[test]
fn the_gates_address_cannot_be_taken_while_it_is_down() {
    let world = World::ssh("gitaddr", "");
    let agent = format!("bottle-{}", world.session);
    let networks = inspect(&world.gate())["NetworkSettings"]["Networks"].clone();
    let net = &networks[format!("bottle-net-{}", world.session)];
    let address = net["IPAMConfig"]["IPv4Address"].as_str().expect("a fixed address");
    docker(&["stop", "-t", "1", &world.gate()]).code(0);
    let upstream = world.upstream.url();
    let at = upstream.split(['@', '/']).nth(3).expect("a host").to_owned();
    // By giving the interface the address (SIOCSIFADDR), by binding to it although it is not there
    // (IP_FREEBIND), as a proxy does (IP_TRANSPARENT), and by writing whole packets.
    let script = format!(
        "use Socket; my $to = pack_sockaddr_in(9099, inet_aton('egress')); my $gate = inet_aton('{address}');
         sub connects {{ my ($s) = @_; bind($s, pack_sockaddr_in(0, $gate)) or return \"no: $!\";
           connect($s, $to) or return \"no: $!\";
           syswrite $s, \"CONNECT {at} HTTP/1.1\\r\\nHost: {at}\\r\\n\\r\\n\"; sysread $s, my $a, 12; $a }}
         socket(my $i, PF_INET, SOCK_DGRAM, 0) or die;
         print 'address: ', ioctl($i, 0x8916, pack('a16a16', 'eth0', pack_sockaddr_in(0, $gate))) ? 'taken' : \"no: $!\", qq(\\n);
         for my $option (15, 19) {{
           socket(my $s, PF_INET, SOCK_STREAM, 0) or die;
           my $set = setsockopt($s, 0, $option, pack('i', 1)) ? 'set' : \"no: $!\";
           print \"option $option: $set, \", connects($s), qq(\\n); }}
         print 'raw: ', socket(my $r, PF_INET, SOCK_RAW, 255) ? 'open' : \"no: $!\", qq(\\n);"
    );
    for user in ["0", "1000"] {
        let tried = docker(&["exec", "-u", user, &agent, "perl", "-e", &script]).code(0).out;
        let lines: Vec<&str> = tried.lines().collect();
        assert_eq!(lines.len(), 4, "{tried}");
        assert_eq!(lines[0], "address: no: Operation not permitted", "{tried}");
        assert!(lines[1].starts_with("option 15: set, no: "), "{tried}");
        assert!(lines[2].starts_with("option 19: no: Operation not permitted, no: "), "{tried}");
        assert_eq!(lines[3], "raw: no: Operation not permitted", "{tried}");
    }
    world.down();
}

#[test]
fn prove_tries_the_gate_of_a_running_session() {
    let world = World::ssh("gitprove", "");
    let before = world.upstream.refs();
    let ran = world.host.run(&["prove", &world.session, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let rows = found["attempts"].as_array().expect("a list");
    for id in ["git-read", "git-secret", "git-keys", "git-settings", "git-archive", "git-past"] {
        let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id}"));
        assert_eq!((&row["tried"], &row["held"]), (&true.into(), &true.into()), "{row}");
    }
    assert_eq!(world.upstream.refs(), before);
    world.down();
}
