//! A rule from its parts, as flags and an editor have them.

use std::collections::BTreeSet;

use bottle_planner::escape::visible;
use bottle_planner::manifest::{is_method, is_request_path};
use bottle_planner::policy::{Access, HostPattern, Rule};

use crate::failure::Failure;

/// The host.
pub fn host(text: &str) -> Result<HostPattern, Failure> {
    HostPattern::new(text).map_err(|e| Failure::usage(format!("host: expected {}", e.expected)))
}

/// The rule: with no method it is for reading.
pub fn rule(methods: &[String], paths: &[String]) -> Result<Rule, Failure> {
    if let Some(method) = methods.iter().find(|method| !is_method(method)) {
        let method = visible(method);
        let message = format!("method: expected a method in upper case, found `{method}`");
        return Err(Failure::usage(message));
    }
    if let Some(path) = paths.iter().find(|path| !is_request_path(path)) {
        let path = visible(path);
        let message =
            format!("path: expected a glob over whole segments like /v1/items/*, found `{path}`");
        return Err(Failure::usage(message));
    }
    let methods: BTreeSet<String> = methods.iter().cloned().collect();
    let access = if methods.is_empty() { Access::Read } else { Access::All };
    Ok(Rule { methods, paths: paths.to_vec(), access, auth: None })
}
