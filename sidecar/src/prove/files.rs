//! Files, mounts, devices and sockets that are not the agent's: other roles' folders, the engine's
//! socket, the host's disks, the kernel's switches.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_planner::sidecar::{BIN, BINARY, IN, OUT, RUN};

use super::network::words;
use super::{Expected, Family, Outcome};

/// Where engines and their shims listen.
const ENGINE_SOCKETS: [&str; 9] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/host-services/docker.proxy.sock",
];

pub(super) fn attempts() -> Family {
    use Expected::{Allowed, Refused};
    let mut all = Family::new("files");
    all.now(Allowed, "read-own", "read one's own settings", || reads("/.bottle/in/init.json"));
    all.now(Allowed, "write-own", "write to one's own output folder", write_own);
    all.now(Refused, "write-in", "write to one's own settings", || creates(IN));
    all.now(Refused, "write-binary", "exchange the mounted binary", || {
        opens_to_write(&format!("{BIN}/{BINARY}"))
    });
    all.now(Refused, "write-beside-binary", "write beside the mounted binary", || creates(BIN));
    all.now(Refused, "write-resolver", "name another resolver", || {
        opens_to_write("/etc/resolv.conf")
    });
    all.now(Refused, "write-hosts", "give egress another address", || opens_to_write("/etc/hosts"));
    all.now(Refused, "other-roles", "see other roles' folders", other_roles);
    all.now(Refused, "ca-key", "read the session's CA key", ca_key);
    all.now(Refused, "private-keys", "find a private key below /.bottle", private_keys);
    all.now(Refused, "deliver", "hand the init a secret of one's own", deliver);

    all.now(Refused, "engine-socket", "the engine's socket", engine_socket);
    all.now(Refused, "engine-mount", "a mount of the engine's socket or root", engine_mount);
    all.now(Refused, "abstract-socket", "a shim's abstract socket", abstract_socket);
    all.now(Refused, "disks", "disks in /dev", || devices(|_, kind| kind.is_block_device()));
    all.now(Refused, "devices", "the kernel's memory and machines in /dev", || {
        let deep = [
            "mem",
            "kmem",
            "port",
            "kmsg",
            "kvm",
            "fuse",
            "tun",
            "vsock",
            "vhost-vsock",
            "vhost-net",
        ];
        devices(|name, _| deep.contains(&name))
    });

    all.now(Refused, "init-memory", "read the init's memory", || reads("/proc/1/mem"));
    all.now(Refused, "init-environment", "read the init's environment", || {
        reads("/proc/1/environ")
    });
    all.now(Refused, "init-files", "see the init's open files", || lists("/proc/1/fd"));
    all.now(Refused, "init-root", "walk through the init's root", || lists("/proc/1/root"));
    all.now(Refused, "host-processes", "see the host's processes", host_processes);
    for (id, path) in [
        ("core-pattern", "/proc/sys/kernel/core_pattern"),
        ("modprobe", "/proc/sys/kernel/modprobe"),
        ("ip-forward", "/proc/sys/net/ipv4/ip_forward"),
        ("sysrq", "/proc/sysrq-trigger"),
        ("uevent-helper", "/sys/kernel/uevent_helper"),
    ] {
        all.now(Refused, format!("write-{id}"), format!("write to {path}"), || {
            opens_to_write(path)
        });
    }
    all.now(Refused, "write-cgroup", "change one's own cgroup", cgroup);
    for (id, path) in [
        ("kcore", "/proc/kcore"),
        ("keys", "/proc/keys"),
        ("timers", "/proc/timer_list"),
        ("firmware", "/sys/firmware"),
        ("debug", "/sys/kernel/debug"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        all.now(Refused, format!("read-{id}"), format!("read {path}"), || masked(path));
    }
    all
}

/// Reads a byte; more is not needed to know, and memory has none at its beginning.
fn reads(path: &str) -> Outcome {
    let opened = fs::File::open(path);
    match opened {
        Ok(mut file) => match file.read(&mut [0; 1]) {
            Ok(0) => Outcome::Allowed("opened; it is empty".into()),
            Ok(_) => Outcome::Allowed("read".into()),
            Err(_) => Outcome::Allowed("opened".into()),
        },
        Err(error) => Outcome::Refused(words(&error)),
    }
}

fn lists(path: &str) -> Outcome {
    match fs::read_dir(path) {
        Ok(entries) => Outcome::Allowed(format!("{} entries", entries.count())),
        Err(error) => Outcome::Refused(words(&error)),
    }
}

/// Opens and writes nothing: being allowed to is all that is asked.
fn opens_to_write(path: &str) -> Outcome {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => Outcome::Allowed("opened to write".into()),
        Err(error) => Outcome::Refused(words(&error)),
    }
}

fn creates(folder: &str) -> Outcome {
    let file = PathBuf::from(folder).join(format!(".prove-{}", std::process::id()));
    match OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(_) => {
            let _ = fs::remove_file(&file);
            Outcome::Allowed("a file was made".into())
        }
        Err(error) => Outcome::Refused(words(&error)),
    }
}

/// The twin of `creates`.
fn write_own() -> Outcome {
    creates(OUT)
}

fn other_roles() -> Outcome {
    let own = [IN, OUT, BIN, RUN].map(Path::new);
    let found = fs::read_dir("/.bottle").into_iter().flatten().flatten().map(|entry| entry.path());
    let strangers: Vec<String> = found
        .filter(|path| !own.contains(&path.as_path()))
        .map(|p| p.display().to_string())
        .collect();
    let beside = ["../egress", "../git-gate", "../supervise", "../../egress"];
    let beside = beside.map(|path| Path::new(IN).join(path)).into_iter().filter(|p| p.exists());
    let all: Vec<String> =
        strangers.into_iter().chain(beside.map(|p| p.display().to_string())).collect();
    if all.is_empty() {
        Outcome::Refused("none is there".into())
    } else {
        Outcome::Allowed(all.join(", "))
    }
}

fn ca_key() -> Outcome {
    let places = ["in/ca.key", "out/ca.key", "egress/in/ca.key", "in/../egress/in/ca.key"];
    match places.map(|path| Path::new("/.bottle").join(path)).into_iter().find(|p| p.exists()) {
        Some(path) => Outcome::Allowed(format!("{} is there", path.display())),
        None => Outcome::Refused("not there".into()),
    }
}

fn private_keys() -> Outcome {
    let mut folders = vec![PathBuf::from(IN), PathBuf::from(OUT), PathBuf::from(RUN)];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            looked_at += 1;
            if looked_at > 2000 {
                return Outcome::NotTried("too many files".into());
            }
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() {
                let mut head = Vec::new();
                let read = fs::File::open(&path).and_then(|f| f.take(4096).read_to_end(&mut head));
                let key = b"PRIVATE KEY-----";
                if read.is_ok() && head.windows(key.len()).any(|part| part == key) {
                    return Outcome::Allowed(path.display().to_string());
                }
            }
        }
    }
    Outcome::Refused("none".into())
}

/// The socket is there, since the init has the agent's user; it takes nothing that was not planned,
/// and nothing once the agent runs.
fn deliver() -> Outcome {
    let asked = || {
        let mut stream = UnixStream::connect(Path::new(RUN).join("receive.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"{\"BOTTLE_PROVE\":\"not a secret\"}")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.take(200).read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    match asked() {
        Ok(answer) if answer.trim() == "ok" => Outcome::Allowed("it was taken".into()),
        Ok(_) => Outcome::Refused("the init refused it".into()),
        Err(error) => Outcome::Refused(words(&error)),
    }
}

fn engine_socket() -> Outcome {
    match ENGINE_SOCKETS.into_iter().find(|path| Path::new(path).symlink_metadata().is_ok()) {
        Some(path) => Outcome::Allowed(format!("{path} is there")),
        None => Outcome::Refused("not there".into()),
    }
}

fn engine_mount() -> Outcome {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return Outcome::NotTried("mounts are not shown".into());
    };
    // proc(5): the fourth field is the root of the mount within its file system, the fifth the place.
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    });
    let of_engine = |root: &str, place: &str| {
        let names = ["docker.sock", "containerd.sock", "podman.sock", "crio.sock"];
        let roots = [
            "/var/lib/docker",
            "/var/lib/containerd",
            "/etc",
            "/root",
            "/home",
            "/var/run",
            "/run",
        ];
        names.iter().any(|name| root.ends_with(name) || place.ends_with(name))
            || roots.contains(&root)
    };
    match found.into_iter().find(|(root, place)| of_engine(root, place)) {
        Some((root, place)) => Outcome::Allowed(format!("{root} at {place}")),
        None => Outcome::Refused("none".into()),
    }
}

fn abstract_socket() -> Outcome {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    match table.split_whitespace().find(|word| word.starts_with('@') && word.contains("containerd"))
    {
        Some(name) => Outcome::Allowed(name.into()),
        None => Outcome::Refused("none".into()),
    }
}

fn devices(wanted: impl Fn(&str, fs::FileType) -> bool) -> Outcome {
    let mut found = Vec::new();
    for folder in ["/dev", "/dev/net", "/dev/mapper"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else {
                continue;
            };
            if wanted(&name, kind) {
                found.push(name);
            }
        }
    }
    if found.is_empty() {
        Outcome::Refused("none".into())
    } else {
        Outcome::Allowed(found.join(", "))
    }
}

/// In a process namespace of one's own there are no threads of the kernel.
fn host_processes() -> Outcome {
    let second = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if second.trim() == "kthreadd" {
        Outcome::Allowed("the kernel's threads are seen".into())
    } else {
        Outcome::Refused("none is seen".into())
    }
}

fn cgroup() -> Outcome {
    let places = [
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/pids/pids.max",
        "/sys/fs/cgroup/pids.max",
        "/sys/fs/cgroup/memory/release_agent",
    ];
    let tried: Vec<(&str, Outcome)> = places
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| (path, opens_to_write(path)))
        .collect();
    if let Some((path, _)) = tried.iter().find(|(_, out)| matches!(out, Outcome::Allowed(_))) {
        return Outcome::Allowed(format!("{path} can be written to"));
    }
    match tried.into_iter().next() {
        Some((_, refused)) => refused,
        None => Outcome::Refused("not there".into()),
    }
}

/// The engine lays an empty file or folder over what should not be seen.
fn masked(path: &str) -> Outcome {
    if Path::new(path).is_dir() {
        return match fs::read_dir(path).map(Iterator::count) {
            Ok(0) => Outcome::Refused("empty".into()),
            Ok(entries) => Outcome::Allowed(format!("{entries} entries")),
            Err(error) => Outcome::Refused(words(&error)),
        };
    }
    match fs::File::open(path).and_then(|mut file| file.read(&mut [0; 1])) {
        Ok(0) => Outcome::Refused("empty".into()),
        Ok(_) => Outcome::Allowed("read".into()),
        Err(error) => Outcome::Refused(words(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        assert_eq!(creates(place), Outcome::Allowed("a file was made".into()));
        assert_eq!(fs::read_dir(place).unwrap().count(), 0, "it is taken away again");
        let file = format!("{place}/file");
        assert_eq!(reads(&file), Outcome::Refused("no such file or directory".into()));
        fs::write(&file, "x").unwrap();
        assert_eq!(reads(&file), Outcome::Allowed("read".into()));
        assert_eq!(masked(&file), Outcome::Allowed("read".into()));
        assert_eq!(opens_to_write(&file), Outcome::Allowed("opened to write".into()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "x", "it is not changed");
        fs::write(&file, "").unwrap();
        assert_eq!(masked(&file), Outcome::Refused("empty".into()));
        assert_eq!(
            masked(&format!("{place}/none")),
            Outcome::Refused("no such file or directory".into())
        );
        assert!(matches!(masked(place), Outcome::Allowed(_)));
    }
}
