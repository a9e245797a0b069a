//! What an agent can do about a refusal: the call that asks for the smallest rule, where one would
//! help and somebody is there to be asked, or else what stands in the way.

use bottle_planner::decision::{Code, Decision, Outcome};
use bottle_planner::manifest::is_request_path;
use bottle_planner::refusals::{Refusals, Widening, widening};
use bottle_planner::sidecar::SUPERVISE_URL;
use serde_json::Value;

use super::proxy::OWN_NAME;
use super::settings::Client;

/// Where a person sees what was refused.
const SEEN: &str = "`bottle blocked` shows them this refusal";
/// Where the agent sees what is granted.
const ROUTES: &str = "The routes in force are at http://egress.local/routes.";

/// Says it, as one line, of a refusal as it may be repeated.
pub(super) fn way_on(refused: Decision, supervised: bool) -> String {
    let known = match refused.code {
        _ if refused.client == Client::Build.as_str() => {
            "name the host and its port in `hosts` of `request-image`; a build may read there."
        }
        Code::Leak => {
            "take the secret out of the request; the person who runs this session sees the refusal."
        }
        Code::GitPush => {
            "push to the git remote as it is configured here: it leads to the git gate."
        }
        Code::Credential => {
            "leave credentials out: egress puts the right one in. If one is missing, the person \
             who runs this session delivers it with `bottle apply`."
        }
        Code::Malformed => "write the request in its plainest form.",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    let (scheme, path) = (refused.scheme.clone(), refused.path.clone());
    match smallest_rule(refused) {
        Ok(rule) if supervised => {
            let arguments = arguments(&scheme, path.as_deref(), &rule);
            format!(
                "call the tool `request-egress` of the MCP server `bottle` at {SUPERVISE_URL} with \
                 {arguments}; it returns once a person answered. {ROUTES}"
            )
        }
        Ok(_) => format!(
            "ask the person who runs this session: {SEEN} and the command that allows it. {ROUTES}"
        ),
        Err(why) => format!(
            "no new rule would change this: {why}. Tell the person who runs this session: {SEEN}. \
             {ROUTES}"
        ),
    }
}

fn smallest_rule(refused: Decision) -> Result<Widening, &'static str> {
    let mut refusals = Refusals::default();
    refusals.add(&Decision { outcome: Outcome::Refuse, ..refused });
    let group = refusals.groups().pop().ok_or("it was not refused")?;
    if group.host == OWN_NAME {
        return Err("that name is egress itself");
    }
    widening(&group)
}

/// JSON that asks for that rule. Of a request that was seen it is the request itself, of which
/// `request-egress` makes the rule; of a tunnel all there is to say is where it was to lead.
fn arguments(scheme: &str, path: Option<&str>, wanted: &Widening) -> String {
    let Widening { host, port, rule } = wanted;
    let text = |text: &str| Value::from(text).to_string();
    let mut fields = Vec::new();
    match rule.paths.first() {
        Some(shape) => {
            let path = path.filter(|path| is_request_path(path)).unwrap_or(shape);
            let port = match (scheme, *port) {
                ("http", 80) | ("https", 443) => String::new(),
                (_, port) => format!(":{port}"),
            };
            fields.push(format!("\"url\": {}", text(&format!("{scheme}://{host}{port}{path}"))));
        }
        None => fields.push(format!("\"host\": {}, \"port\": {port}", text(host.as_str()))),
    }
    if !rule.methods.is_empty() {
        let methods: Vec<String> = rule.methods.iter().map(|method| text(method)).collect();
        fields.push(format!("\"methods\": [{}]", methods.join(", ")));
    }
    fields.push("\"justification\": \"what it is for\"".to_owned());
    format!("{{{}}}", fields.join(", "))
}

#[cfg(test)]
mod tests {
    use bottle_planner::decision::Via;
    use bottle_planner::proposal::{Ask, Wish};
    use serde::Deserialize;

    use super::*;

    fn refused(code: Code, method: &str, host: &str, port: u16, path: Option<&str>) -> Decision {
        Decision {
            time: String::new(),
            plan: None,
            client: "agent".into(),
            via: Via::Proxy,
            scheme: if port == 80 { "http" } else { "https" }.into(),
            method: method.into(),
            host: host.into(),
            port: Some(port),
            path: path.map(str::to_owned),
            outcome: Outcome::Refuse,
            code,
            rule: "default".into(),
            reason: String::new(),
            push: None,
        }
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Call {
        url: Option<String>,
        host: Option<String>,
        port: Option<u16>,
        #[serde(default)]
        methods: Vec<String>,
        justification: String,
    }

    #[test]
    fn the_call_it_names_asks_for_the_smallest_rule() {
        for (method, host, port, path, says) in [
            (
                "POST",
                "a.test",
                443,
                Some("/i/7"),
                r#"{"url": "https://a.test/i/7", "methods": ["POST"], "#,
            ),
            ("GET", "a.test", 80, Some("/"), r#"{"url": "http://a.test/", "methods": ["GET"], "#),
            ("PUT", "a.test", 8443, Some("/a%20b"), r#"{"url": "https://a.test:8443/a%20b", "#),
            // Nothing that an agent puts there ends the string.
            (
                "GET",
                "a.test",
                443,
                Some("/a\"},{/\u{202e}/****"),
                r#"{"url": "https://a.test/*/*/*", "#,
            ),
            ("GET", "a.test", 443, Some("/a\"b"), r#"{"url": "https://a.test/a\"b", "#),
            (
                "CONNECT",
                "a.test",
                8443,
                None,
                r#"{"host": "a.test", "port": 8443, "justification": "#,
            ),
        ] {
            let decision = refused(Code::NoRoute, method, host, port, path);
            let said = way_on(decision.clone(), true);
            assert!(said.contains("http://supervise:9100/mcp with {"), "{said}");
            assert!(said.contains(says), "{says}: {said}");
            let json = said.split_once(" with ").unwrap().1.split_once("; it returns").unwrap().0;
            let call: Call = serde_json::from_str(json).unwrap();
            assert!(!call.justification.is_empty());
            let ask = Ask::egress(&Wish {
                url: call.url.as_deref(),
                host: call.host.as_deref(),
                port: call.port,
                paths: &[],
                methods: &call.methods,
            });
            assert_eq!(ask.unwrap().widening(), Some(smallest_rule(decision).unwrap()), "{said}");
        }
    }

    #[test]
    fn no_tool_is_named_that_is_not_there_or_would_not_help() {
        let post = |code| refused(code, "POST", "a.test", 443, Some("/a"));
        let said = way_on(post(Code::NoRule), false);
        assert!(said.contains("`bottle blocked`") && !said.contains("supervise:9100"), "{said}");
        for (code, says) in [
            (Code::Port, "change `port`"),
            (Code::Denied, "change `deny`"),
            (Code::Address, "`address`"),
            (Code::Limit, "more than egress takes"),
            (Code::Leak, "take the secret out"),
            (Code::GitPush, "git gate"),
            (Code::Credential, "leave credentials out"),
            (Code::Malformed, "plainest form"),
        ] {
            let said = way_on(post(code), true);
            assert!(said.contains(says) && !said.contains("request-egress"), "{said}");
        }
        for host in ["10.0.0.1", "egress.local", "", "[::1]"] {
            let said = way_on(refused(Code::NoRoute, "GET", host, 80, Some("/")), true);
            assert!(said.contains("no new rule") && !said.contains("request-egress"), "{said}");
        }
    }
}
