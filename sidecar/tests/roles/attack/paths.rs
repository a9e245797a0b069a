//! Paths that a server might take for others: out of the granted folder, or into the denied one.

use bottle_planner::decision::Code::{self, Denied, Malformed, NoRule};

use super::targets::{allowed, get};
use super::{Attempt, Shot};

const ELSEWHERE: &[Code] = &[Malformed, NoRule, Denied];

pub fn attempts() -> Vec<Attempt> {
    let mut all = Vec::new();
    for path in [
        "/closed/x",
        "/",
        "/open-evil/x",
        "/opened/x",
        "/Open/x",
        "/OPEN/x",
        "/open/../closed/x",
        "/open/x/../../closed/x",
        "/open/./../closed/x",
        "/open//../closed/x",
        "/open/..",
        "/../open/../closed/x",
        "/./open/../closed/x",
        "/open/%2e%2e/closed/x",
        "/open/%2E%2E/closed/x",
        "/open/.%2e/closed/x",
        "/open/%2e./closed/x",
        "/open/..%2fclosed/x",
        "/open/..%2Fclosed/x",
        "/open%2f..%2fclosed/x",
        "/open/%2e%2e%2fclosed/x",
        "/open%2f%2e%2e%2fclosed%2fx",
        "/open\\..\\closed\\x",
        "/open/..\\closed/x",
        "/open/..%5cclosed/x",
        "/open%5c..%5cclosed",
        "/open/%252e%252e/closed/x",
        "/open/..%252fclosed/x",
        "/open/%25252e%25252e/closed/x",
        "/open/..;/closed/x",
        "/open/..;a=b/closed/x",
        "/open/..%3b/closed/x",
        "/open;/../closed/x",
        "/open/..%00/closed/x",
        "/open/%00/../closed/x",
        "/open/..%0d/closed/x",
        "/open/..%09/closed/x",
        "/open/..%20/closed/x",
        "/open/..%c0%afclosed/x",
        "/open/%c0%ae%c0%ae/closed/x",
        "/open/%e0%80%ae%e0%80%ae/closed/x",
        "/open/%u002e%u002e/closed/x",
        "/open/%uff0e%uff0e/closed/x",
        "/open/%2e%2/closed/x",
        "/open/%zz/../closed/x",
        "//closed/x",
        "/closed;/open/x",
        "/closed%3b/open/x",
        "/closed?/open/x",
        "/%6fpen%2f..%2fclosed/x",
        "/open/..?/closed/x",
        "/x/open/y",
    ] {
        all.push(Attempt::refused(
            "path",
            path,
            ELSEWHERE,
            Shot::tunnel("api.test").send(get("api.test", path, "")),
            allowed(),
        ));
    }
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/ADMIN/x",
        "/Admin/x",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "//admin/x",
        "///admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/admin%2fx",
        "/admin;a=b/x",
        "/;/admin/x",
        "/admin%3bx/y",
        "/admin%20/x",
        "/admin%00/x",
        "/admin./x",
        "/admin%2e/x",
        "/admin\\x",
        "/admin%5cx",
        "/%2fadmin/x",
        "/%2561dmin/x",
        "/adm%69n?x",
    ] {
        all.push(Attempt::refused(
            "denied path",
            path,
            ELSEWHERE,
            Shot::tunnel("deny.test").send(get("deny.test", path, "")),
            Shot::tunnel("deny.test").send(get("deny.test", "/administrator", "")),
        ));
    }
    all
}
