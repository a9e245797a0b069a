//! Using up the host: what the container's cgroup allows, and one try to start more than that.

use std::fs;
use std::sync::mpsc;

use super::{Expected, Family, Outcome, Targets};

/// A limit from here on is none: cgroup v1 writes "no limit" as the largest page-aligned number.
const NO_LIMIT: u64 = 1 << 60;

pub(super) fn attempts(targets: &Targets) -> Family {
    use Expected::Refused;
    let mut all = Family::new("limits");
    for (id, what, places) in [
        (
            "limit-memory",
            "memory without a limit",
            ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
        ),
        (
            "limit-processes",
            "processes without a limit",
            ["/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"],
        ),
        (
            "limit-processor",
            "the processor without a limit",
            ["/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"],
        ),
    ] {
        all.now(Refused, id, what, move || {
            match places.iter().find_map(|path| fs::read_to_string(path).ok()) {
                Some(text) => limited(&text),
                None => Outcome::NotTried("the cgroup is not shown in here".into()),
            }
        });
    }
    if let Some(most) = targets.processes {
        let what = format!("start {most} threads more");
        all.now(Refused, "too-many-threads", what, move || threads(most));
    }
    all
}

fn limited(text: &str) -> Outcome {
    let first = text.split_whitespace().next().unwrap_or_default();
    match first.parse::<u64>() {
        Ok(limit) if limit < NO_LIMIT => match limit >> 20 {
            0 => Outcome::Refused(format!("at most {limit}")),
            mebibytes => Outcome::Refused(format!("at most {mebibytes} Mi")),
        },
        // `max` in version 2; -1, or a number beyond reason, in version 1.
        _ => Outcome::Allowed(format!("no limit ({first})")),
    }
}

/// Starts threads that wait until all are counted.
fn threads(most: u32) -> Outcome {
    let mut waiting = Vec::new();
    let mut started = 0;
    for _ in 0..most {
        let (done, wait) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        match thread.spawn(move || wait.recv().is_ok()) {
            Ok(thread) => {
                started += 1;
                waiting.push((done, thread));
            }
            Err(_) => break,
        }
    }
    for (done, thread) in waiting {
        drop(done);
        // They do nothing that could fail.
        let _ = thread.join();
    }
    if started < most {
        Outcome::Refused(format!("no more after {started}"))
    } else {
        Outcome::Allowed(format!("{started} were started"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_seen_in_both_versions() {
        assert_eq!(limited("1024\n"), Outcome::Refused("at most 1024".into()));
        assert_eq!(limited("536870912\n"), Outcome::Refused("at most 512 Mi".into()));
        assert_eq!(limited("200000 100000\n"), Outcome::Refused("at most 200000".into()));
        for none in ["max\n", "max 100000\n", "-1\n", "9223372036854771712\n", ""] {
            assert!(matches!(limited(none), Outcome::Allowed(_)), "{none}");
        }
    }

    #[test]
    fn threads_that_can_be_started_are() {
        assert_eq!(threads(3), Outcome::Allowed("3 were started".into()));
    }
}
