//! Becoming more than the agent: another user, capabilities, namespaces, mounts, modules, the
//! init's own doors.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountFlags, UnmountFlags};
use rustix::process::{Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use rustix::time::ClockId;

use super::network::{errno, words};
use super::{Expected, Family, Order, Outcome};

/// A folder of this process alone, to mount upon: it goes when the process does.
const NOWHERE: &str = "/proc/self/fdinfo";
const IN: &str = bottle_planner::sidecar::IN;

pub(super) fn attempts() -> Family {
    use Expected::{Allowed, Refused};
    let mut all = Family::new("privileges");
    all.now(Allowed, "status", "read one's own status", || match status().len() {
        0 => Outcome::Refused("/proc/self/status is not there".into()),
        _ => Outcome::Allowed("read".into()),
    });
    for (name, what) in [
        ("CapEff", "capabilities in effect"),
        ("CapPrm", "capabilities to put into effect"),
        ("CapInh", "capabilities to hand on"),
        ("CapBnd", "capabilities to gain from a program"),
        ("CapAmb", "capabilities that stay"),
    ] {
        let id = name.to_ascii_lowercase();
        all.now(Refused, id, what, move || capabilities(status().get(name)));
    }
    all.now(Refused, "setuid-program", "gain from a setuid program", || {
        flag("NoNewPrivs", "1", "no_new_privs is set")
    });
    all.now(Refused, "seccomp", "call the kernel without a filter", || {
        flag("Seccomp", "2", "a filter is in force")
    });
    all.now(Refused, "root-user", "become user 0", || {
        if rustix::process::geteuid().is_root() {
            return Outcome::Allowed("the agent runs as user 0".into());
        }
        denied(rustix::thread::set_thread_uid(Uid::ROOT))
    });
    all.now(Refused, "root-group", "become group 0", || {
        denied(rustix::thread::set_thread_gid(Gid::ROOT))
    });
    all.now(Refused, "root-groups", "join group 0", || {
        denied(rustix::thread::set_thread_groups(&[Gid::ROOT]))
    });
    all.now(Refused, "capset", "take all capabilities", || {
        let all = CapabilitySet::all();
        let sets = CapabilitySets { effective: all, permitted: all, inheritable: all };
        denied(rustix::thread::set_capabilities(None, sets))
    });
    for (name, what) in [
        ("user", "a user namespace of one's own"),
        ("network", "a network namespace of one's own"),
        ("mount", "a mount namespace of one's own"),
        ("pid", "a process namespace of one's own"),
    ] {
        let id = format!("unshare-{name}");
        all.now(Refused, id.clone(), what, move || in_a_child(&id));
    }
    all.now(Refused, "setns", "enter the init's namespaces", || {
        match fs::File::open("/proc/1/ns/mnt") {
            Ok(_) => Outcome::Allowed("the door is open".into()),
            Err(error) => Outcome::Refused(words(&error)),
        }
    });
    all.now(Refused, "mount", "mount a file system", || {
        let mounted = rustix::mount::mount("prove", NOWHERE, "tmpfs", MountFlags::empty(), None);
        if mounted.is_ok() {
            let _ = rustix::mount::unmount(NOWHERE, UnmountFlags::DETACH);
        }
        denied(mounted)
    });
    all.now(Refused, "mount-new", "make a file system (fsopen)", || {
        denied(rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC))
    });
    all.now(Refused, "remount", "make one's settings writable", || {
        let done = rustix::mount::mount_remount(IN, MountFlags::BIND, "");
        if done.is_ok() {
            let _ = rustix::mount::mount_remount(IN, MountFlags::BIND | MountFlags::RDONLY, "");
        }
        denied(done)
    });
    all.now(Refused, "unmount", "unmount one's settings", || {
        // Asked for the first time it is only marked; whoever may not is told so before.
        not_permitted(rustix::mount::unmount(IN, UnmountFlags::EXPIRE))
    });
    all.now(Refused, "pivot-root", "exchange the root (pivot_root)", || {
        not_permitted(rustix::process::pivot_root("/", "/"))
    });
    all.now(Refused, "chroot", "change the root (chroot)", || denied(rustix::process::chroot("/")));
    for (id, what, kind, major, minor) in [
        ("mknod-disk", "make a disk's device node", FileType::BlockDevice, 8, 0),
        ("mknod-memory", "make the memory's device node", FileType::CharacterDevice, 1, 1),
    ] {
        all.now(Refused, id, what, move || {
            let path = format!("/dev/shm/.prove-{}-{minor}", std::process::id());
            let made =
                rustix::fs::mknodat(CWD, path.as_str(), kind, Mode::RUSR, makedev(major, minor));
            if made.is_ok() {
                let _ = fs::remove_file(&path);
            }
            denied(made)
        });
    }
    all.now(Refused, "module-load", "load a kernel module", || {
        not_permitted(rustix::system::init_module(b"no module", c""))
    });
    all.now(Refused, "module-unload", "unload a kernel module", || {
        not_permitted(rustix::system::delete_module(c"bottle_prove_none", 0))
    });
    all.now(Refused, "host-name", "rename the machine", || {
        let name = rustix::system::uname().nodename().to_bytes().to_vec();
        denied(rustix::system::sethostname(&name))
    });
    all.now(Refused, "clock", "set the clock", || {
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        denied(rustix::time::clock_settime(ClockId::Realtime, now))
    });
    all.now(Refused, "priority", "run before everybody else", || {
        denied(rustix::process::setpriority_process(None, -20))
    });
    all.now(Refused, "out-of-memory", "be the last to be killed", || in_a_child("out-of-memory"));
    all.now(Refused, "init-descriptor", "take an open file from the init", || {
        let Some(init) = Pid::from_raw(1) else { return Outcome::NotTried("no init".into()) };
        let taken = rustix::process::pidfd_open(init, PidfdFlags::empty())
            .and_then(|init| rustix::process::pidfd_getfd(init, 0, PidfdGetfdFlags::empty()));
        denied(taken)
    });
    all
}

/// What `/proc/self/status` says (proc_pid_status(5)).
fn status() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn capabilities(set: Option<&String>) -> Outcome {
    match set.map(|set| (set, u64::from_str_radix(set, 16))) {
        Some((_, Ok(0))) => Outcome::Refused("none".into()),
        Some((set, _)) => Outcome::Allowed(set.clone()),
        None => Outcome::NotTried("the kernel does not tell".into()),
    }
}

fn flag(name: &str, wanted: &str, meaning: &str) -> Outcome {
    match status().get(name) {
        Some(found) if found == wanted => Outcome::Refused(meaning.into()),
        Some(found) => Outcome::Allowed(format!("{name} is {found}")),
        None => Outcome::NotTried("the kernel does not tell".into()),
    }
}

fn denied<T>(result: Result<T, Errno>) -> Outcome {
    match result {
        Ok(_) => Outcome::Allowed("done".into()),
        Err(error) => Outcome::Refused(errno(error)),
    }
}

/// For calls that are asked for something that cannot be: any error but a refusal means that the
/// right to do it is there.
fn not_permitted(result: Result<(), Errno>) -> Outcome {
    match result {
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::NOSYS)) => Outcome::Refused(errno(error)),
        Err(error) => Outcome::Allowed(format!("permitted: {}", errno(error))),
        Ok(()) => Outcome::Allowed("done".into()),
    }
}

/// A process with several threads may not leave its user namespace (unshare(2)), and one that hides
/// its memory does not own its files in /proc: a fresh one tries.
fn in_a_child(attempt: &str) -> Outcome {
    let order = serde_json::to_vec(&Order::Alone { attempt: attempt.into() });
    let tried = order.map_err(std::io::Error::other).and_then(|order| {
        let mut child = Command::new("/proc/self/exe")
            .args(["sidecar", "prove"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&order)?;
        }
        child.wait_with_output()
    });
    let words_of = |output: std::process::Output| serde_json::from_slice(&output.stdout).ok();
    match tried.map(words_of) {
        Ok(Some(Ok::<String, String>(how))) => Outcome::Allowed(how),
        Ok(Some(Err(why))) => Outcome::Refused(why),
        Ok(None) => Outcome::NotTried("the child gave no answer".into()),
        Err(error) => Outcome::NotTried(words(&error)),
    }
}

/// Makes an attempt that changes the process itself, which ends right after.
pub(super) fn alone(attempt: &str) -> Result<String, String> {
    let namespace = match attempt {
        "unshare-user" => UnshareFlags::NEWUSER,
        "unshare-network" => UnshareFlags::NEWNET,
        "unshare-mount" => UnshareFlags::NEWNS,
        "unshare-pid" => UnshareFlags::NEWPID,
        "out-of-memory" => {
            // A process begins with 0; below it only the privileged go.
            return fs::OpenOptions::new()
                .write(true)
                .open("/proc/self/oom_score_adj")
                .and_then(|mut file| file.write_all(b"-1000"))
                .map(|()| "done".into())
                .map_err(|error| words(&error));
        }
        _ => return Err("no such attempt".into()),
    };
    #[expect(deprecated, reason = "unsafe only where it takes file descriptors from threads")]
    let done = rustix::thread::unshare(namespace);
    done.map(|()| "made".into()).map_err(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_capability_is_one_too_many() {
        let judged = |text: &str| capabilities(Some(&text.to_owned()));
        assert_eq!(judged("0000000000000000"), Outcome::Refused("none".into()));
        let raw = "0000000000002000";
        assert_eq!(judged(raw), Outcome::Allowed(raw.into()));
        assert_eq!(judged("?"), Outcome::Allowed("?".into()));
        assert!(matches!(capabilities(None), Outcome::NotTried(_)));
    }

    #[test]
    fn an_error_that_is_no_refusal_means_that_it_is_permitted() {
        assert!(matches!(not_permitted(Err(Errno::PERM)), Outcome::Refused(_)));
        assert!(matches!(not_permitted(Err(Errno::BUSY)), Outcome::Allowed(_)));
        assert!(matches!(not_permitted(Ok(())), Outcome::Allowed(_)));
    }

    #[test]
    fn the_status_of_this_process_has_what_is_asked_of_it() {
        let status = status();
        for name in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
            assert!(status.contains_key(name), "{name}");
        }
    }
}
