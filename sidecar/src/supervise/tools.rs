//! The tools, as an agent sees them, and what their arguments ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use bottle_planner::policy::BuildHost;
use bottle_planner::proposal::{Ask, Unaskable, Wish};
use bottle_planner::words::Name;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(super) const LIST: &str = "list-egress-routes";
pub(super) const EGRESS: &str = "request-egress";
pub(super) const IMAGE: &str = "request-image";
pub(super) const PUSH: &str = "request-push-exception";
/// Names by which an older tool of this kind calls two of them.
const ALIASES: [(&str, &str); 2] = [("egress-block", EGRESS), ("capability-block", IMAGE)];

/// Arguments of `request-egress`. Give `url` alone for a request that was refused: the smallest
/// rule that allows its kind is proposed. Or give `host` with `paths`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EgressArguments {
    /// The whole URL of the refused request, in place of host, port and paths.
    url: Option<String>,
    /// The host to be reached: one exact name, without scheme, port or path.
    host: Option<String>,
    /// Its port; 443 unless it is given.
    port: Option<u16>,
    /// Paths, as globs over whole segments: `/v1/items/*`, `/repos/acme/**`. None means every path.
    #[serde(default)]
    paths: Vec<String>,
    /// Methods like `GET` or `POST`. None means reading (GET, HEAD, OPTIONS).
    #[serde(default)]
    methods: Vec<String>,
    /// Why you need it, for the person who decides: what you are doing, and what for.
    justification: String,
}

/// Arguments of `request-image`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImageArguments {
    /// The whole Dockerfile, built with an empty context. Begin with the FROM line of the one in
    /// force. ONBUILD, VOLUME, HEALTHCHECK, ADD of a URL and `# syntax=` are refused.
    dockerfile: String,
    /// What the build itself has to reach, as `host` or `host:port`: `deb.debian.org:80`. Nothing
    /// else is reachable in it.
    #[serde(default)]
    hosts: Vec<String>,
    /// Why you need it, for the person who decides: what you are doing, and what for.
    justification: String,
}

/// Arguments of `request-push-exception`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PushArguments {
    /// The git remote that refused the push, by its name in the refusal.
    remote: String,
    /// The finding: the 32 hexadecimal digits in [brackets] at the end of its line.
    finding: String,
    /// Why it is no secret, for the person who decides.
    justification: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

/// The tools that are listed; their aliases are not.
pub(super) fn all() -> Vec<Tool> {
    vec![
        tool::<NoArguments>(
            LIST,
            "The network routes that are in force for you: hosts, ports, methods and paths. Ask \
             here before you request more.",
            true,
        ),
        tool::<EgressArguments>(
            EGRESS,
            "Ask the person who runs this session to let you reach a host. Use it when a request \
             was refused with 403 by egress and you need it. The call waits until the person \
             answers, which may take long; the answer is approved, modified or rejected, with \
             notes. After an approval the same request works at once. Ask for no more than you \
             need.",
            false,
        ),
        tool::<ImageArguments>(
            IMAGE,
            "Ask the person who runs this session for another container image, when you need a \
             package or tool that is not installed and that you cannot install yourself. Give the \
             whole Dockerfile. The call waits until the person answers. If it is approved your \
             container ends, and you are resumed in the new image with your files and this \
             conversation.",
            false,
        ),
        tool::<PushArguments>(
            PUSH,
            "Ask the person who runs this session to let one finding of the git gate's leak scan \
             through, once. Use it when a push was refused for something that is no secret (a test \
             fixture, an example) and that has to stay. The call waits until the person answers; \
             after an approval push the same commits again.",
            false,
        ),
    ]
}

fn tool<A: JsonSchema>(name: &'static str, description: &'static str, reads: bool) -> Tool {
    let schema = serde_json::to_value(schemars::schema_for!(A));
    let schema: JsonObject = match schema {
        Ok(serde_json::Value::Object(schema)) => schema,
        _ => JsonObject::new(),
    };
    let mut tool = Tool::new(name, description, Arc::new(schema));
    tool.annotations = Some(ToolAnnotations::new().read_only(reads));
    tool
}

/// A tool's own name, where it is called by an alias.
pub(super) fn own_name(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own)
}

/// What a call asks for, and why.
///
/// # Errors
///
/// A sentence for the agent: what is wrong with the arguments.
pub(super) fn asked(name: &str, arguments: JsonObject) -> Result<(Ask, String), Unaskable> {
    let (ask, why) = match name {
        EGRESS => {
            let given: EgressArguments = read(arguments)?;
            let ask = Ask::egress(&Wish {
                url: given.url.as_deref(),
                host: given.host.as_deref(),
                port: given.port,
                paths: &given.paths,
                methods: &given.methods,
            })?;
            (ask, given.justification)
        }
        IMAGE => {
            let given: ImageArguments = read(arguments)?;
            let hosts = given.hosts.iter().map(|host| BuildHost::new(host));
            let hosts: Result<BTreeSet<BuildHost>, _> = hosts.collect();
            let hosts =
                hosts.map_err(|e| Unaskable(format!("`hosts`: expected {}", e.expected)))?;
            (Ask::Image { dockerfile: given.dockerfile, hosts }, given.justification)
        }
        _ => {
            let given: PushArguments = read(arguments)?;
            let remote = Name::new(given.remote.as_str())
                .map_err(|e| Unaskable(format!("`remote`: expected {}", e.expected)))?;
            let fingerprint = given.finding.trim_matches(['[', ']', ' ']).to_owned();
            (Ask::PushException { remote, fingerprint }, given.justification)
        }
    };
    ask.check()?;
    if why.trim().is_empty() {
        return Err(Unaskable("`justification` is empty: say why, for the person".to_owned()));
    }
    Ok((ask, why))
}

fn read<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, Unaskable> {
    serde_json::from_value(arguments.into())
        .map_err(|error| Unaskable(format!("arguments: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: serde_json::Value) -> Result<(Ask, String), Unaskable> {
        let serde_json::Value::Object(arguments) = arguments else { panic!("an object") };
        asked(name, arguments)
    }

    #[test]
    fn every_tool_says_what_it_takes() {
        for tool in all() {
            let schema = serde_json::Value::Object((*tool.input_schema).clone());
            assert_eq!(schema["type"], "object", "{}", tool.name);
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name);
            if tool.name != LIST {
                let required = schema["required"].as_array().expect("some");
                assert!(required.contains(&json!("justification")), "{}", tool.name);
            }
        }
    }

    #[test]
    fn arguments_are_read_strictly() {
        let wrong = [
            (EGRESS, json!({"url": "https://a.test/"}), "justification"),
            (EGRESS, json!({"host": "*", "justification": "x"}), "`host`"),
            (EGRESS, json!({"host": "a.test", "justification": " "}), "empty"),
            (EGRESS, json!({"host": "a.test", "secret": "x", "justification": "x"}), "secret"),
            (IMAGE, json!({"dockerfile": "FROM x", "hosts": ["*"], "justification": "x"}), "hosts"),
            (
                PUSH,
                json!({"remote": "w/x", "finding": "0123456789abcdef0123456789abcdef", "justification": "x"}),
                "remote",
            ),
            (PUSH, json!({"remote": "web", "finding": "x", "justification": "x"}), "`finding`"),
        ];
        for (name, arguments, part) in wrong {
            let error = call(name, arguments).expect_err(part).0;
            assert!(error.contains(part), "{error}");
        }
        let finding = json!({"remote": "web", "finding": "[0123456789abcdef0123456789abcdef]", "justification": "x"});
        assert!(call(PUSH, finding).is_ok());
    }
}
