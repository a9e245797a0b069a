//! Inheritance: a bottle's parents left to right, then itself, then the defaults.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::bottle::{BottleDef, LimitsDef, WorkspaceDef};
use super::diagnostic::{Findings, Spot, nearest};
use super::presets::PRESETS;
use crate::policy::{
    Bottle, Build, BuildNetwork, Egress, Image, Isolation, Limits, Provider, RouteRole,
    WorkspaceMode, WorkspacePolicy,
};
use crate::words::{EnvName, Name};

/// How many variables, remotes and routes all bottles may have together once each has what it
/// inherits: a small file of many children could otherwise fill the memory.
const MAX_PARTS: usize = 100_000;

/// How many bottles one bottle may be made of.
pub(super) const MAX_LINEAGE: usize = 64;

/// A bottle as it was read.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub def: BottleDef,
    pub spot: Spot,
    /// How the lineage names it: its file, or its preset.
    pub origin: String,
    /// Whether it was read without an error.
    pub sound: bool,
}

/// Every bottle complete; `None` where an error was already reported.
pub(super) fn resolve(
    drafts: &BTreeMap<Name, Draft>,
    findings: &mut Findings,
) -> BTreeMap<Name, Option<Bottle>> {
    let mut done: BTreeMap<Name, Option<Merged>> = BTreeMap::new();
    let mut parts = 0;
    for name in order(drafts, findings) {
        let merged = merge(&name, drafts, &done, findings);
        if let Some(Merged { bottle, .. }) = &merged {
            parts += bottle.env.len() + bottle.git.len() + bottle.egress.routes.len();
        }
        if let (true, Some(draft)) = (parts > MAX_PARTS, drafts.get(&name)) {
            let message = "all bottles together have more than 100000 parts";
            findings.error(&draft.spot, "too-many-parts", message);
            break;
        }
        done.insert(name, merged);
    }
    let mut bottles: BTreeMap<Name, Option<Bottle>> =
        drafts.keys().map(|name| (name.clone(), None)).collect();
    for (name, merged) in done {
        bottles.insert(name, merged.map(|merged| merged.bottle));
    }
    bottles
}

struct Merged {
    def: BottleDef,
    lineage: Vec<String>,
    bottle: Bottle,
}

/// Parents before children. Members of a cycle, and what hangs on one, are left out.
fn order(drafts: &BTreeMap<Name, Draft>, findings: &mut Findings) -> Vec<Name> {
    let mut waits: BTreeMap<&Name, usize> = BTreeMap::new();
    let mut children: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for (name, draft) in drafts {
        let parents = draft.def.extends.iter().filter(|parent| drafts.contains_key(&parent.value));
        let mut count = 0;
        for parent in parents {
            children.entry(&parent.value).or_default().push(name);
            count += 1;
        }
        waits.insert(name, count);
    }
    let mut order: Vec<&Name> =
        waits.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut next = 0;
    while let Some(name) = order.get(next).copied() {
        next += 1;
        waits.remove(name);
        for child in children.get(name).into_iter().flatten() {
            if let Some(count) = waits.get_mut(*child) {
                *count -= 1;
                if *count == 0 {
                    order.push(child);
                }
            }
        }
    }
    cycles(drafts, &waits.into_keys().collect(), findings);
    order.into_iter().cloned().collect()
}

/// Reports each cycle among the bottles that wait for each other, once.
fn cycles(drafts: &BTreeMap<Name, Draft>, stuck: &BTreeSet<&Name>, findings: &mut Findings) {
    let mut seen: BTreeSet<&Name> = BTreeSet::new();
    for start in stuck {
        let mut walk: Vec<&Name> = Vec::new();
        let mut here = *start;
        while seen.insert(here) {
            walk.push(here);
            let Some(parent) = drafts.get(here).and_then(|draft| {
                draft.def.extends.iter().find(|parent| stuck.contains(&parent.value))
            }) else {
                break;
            };
            here = &parent.value;
            if let Some(first) = walk.iter().position(|name| *name == here) {
                let ring = &walk[first..];
                let mut names: Vec<&str> = ring.iter().take(8).map(|name| name.as_str()).collect();
                if ring.len() > 8 {
                    names.push("…");
                }
                names.push(here.as_str());
                let message =
                    format!("bottles extend each other in a circle: {}", names.join(" → "));
                findings.error(&parent.spot, "extends-cycle", message);
            }
        }
    }
}

fn merge(
    name: &Name,
    drafts: &BTreeMap<Name, Draft>,
    done: &BTreeMap<Name, Option<Merged>>,
    findings: &mut Findings,
) -> Option<Merged> {
    let draft = drafts.get(name)?;
    let mut def = BottleDef::default();
    let mut lineage: Vec<String> = Vec::new();
    let mut sound = draft.sound;
    for parent in &draft.def.extends {
        match done.get(&parent.value) {
            Some(Some(merged)) => {
                def = over(def, merged.def.clone());
                for origin in &merged.lineage {
                    if !lineage.contains(origin) {
                        lineage.push(origin.clone());
                    }
                }
            }
            Some(None) => sound = false,
            None => {
                sound = false;
                missing(&parent.spot, &parent.value, drafts.keys(), findings);
            }
        }
        if lineage.len() >= MAX_LINEAGE {
            let message = format!("`{name}` is made of more than {MAX_LINEAGE} bottles");
            findings.error(&parent.spot, "extends-too-deep", message);
            return None;
        }
    }
    if !sound {
        return None;
    }
    def = over(def, draft.def.clone());
    lineage.push(draft.origin.clone());
    let bottle = complete(name, &def, &lineage, findings)?;
    Some(Merged { def, lineage, bottle })
}

/// Reports a bottle that is named and not there.
pub(super) fn missing<'a>(
    spot: &Spot,
    name: &Name,
    known: impl Iterator<Item = &'a Name>,
    findings: &mut Findings,
) {
    let presets = PRESETS.iter().map(|preset| preset.name);
    let candidates = presets.chain(known.map(Name::as_str));
    let guess = findings.worth_a_guess();
    let near = guess.then(|| nearest(name.as_str(), candidates)).flatten();
    let kind = if name.as_str().starts_with('@') { "preset" } else { "bottle" };
    let found = findings.error(spot, "missing-bottle", format!("there is no {kind} `{name}`"));
    if let Some(near) = near {
        found.advise(format!("did you mean `{near}`?"));
    }
}

/// The later definition over the earlier one.
fn over(mut base: BottleDef, top: BottleDef) -> BottleDef {
    base.env.extend(top.env);
    base.git.extend(top.git);
    base.egress.routes.extend(top.egress.routes);
    BottleDef {
        extends: Vec::new(),
        env: base.env,
        git: base.git,
        git_user: top.git_user.or(base.git_user),
        egress: super::egress::EgressDef {
            routes: base.egress.routes,
            rules: top.egress.rules.or(base.egress.rules),
        },
        workspace: WorkspaceDef {
            modes: top.workspace.modes.or(base.workspace.modes),
            default: top.workspace.default.or(base.workspace.default),
            hide: top.workspace.hide.or(base.workspace.hide),
            protect: top.workspace.protect.or(base.workspace.protect),
        },
        supervise: top.supervise.or(base.supervise),
        image: top.image.or(base.image),
        provider: top.provider.or(base.provider),
        isolation: top.isolation.or(base.isolation),
        limits: LimitsDef {
            cpus_milli: top.limits.cpus_milli.or(base.limits.cpus_milli),
            memory_bytes: top.limits.memory_bytes.or(base.limits.memory_bytes),
            pids: top.limits.pids.or(base.limits.pids),
            shm_bytes: top.limits.shm_bytes.or(base.limits.shm_bytes),
            time_seconds: top.limits.time_seconds.or(base.limits.time_seconds),
            idle_seconds: top.limits.idle_seconds.or(base.limits.idle_seconds),
        },
        repo_agents: top.repo_agents.or(base.repo_agents),
        skills: top.skills.or(base.skills),
        pipelock: top.pipelock.or(base.pipelock),
    }
}

/// Fills in the defaults, after a look at what only the whole can get wrong.
fn complete(
    name: &Name,
    def: &BottleDef,
    lineage: &[String],
    findings: &mut Findings,
) -> Option<Bottle> {
    let before = findings.errors();
    oauth_routes(def, findings);
    placeholders(def, findings);
    extra_hosts(def, findings);
    let workspace = workspace(&def.workspace, findings);
    let git_user = match def.git_user.complete() {
        Ok(user) => user,
        Err((half, missing)) => {
            let message = format!("`git_user` needs `{missing}` too");
            findings.error(&half.spot, "missing-key", message);
            None
        }
    };
    if findings.errors() != before {
        return None;
    }
    let limits = Limits::default();
    let image = Image::Provider {
        version: None,
        packages: BTreeSet::new(),
        setup: String::new(),
        build: Build { network: BuildNetwork::Open, allow_from: BTreeSet::new() },
    };
    let routes = def.egress.routes.iter();
    Some(Bottle {
        name: name.clone(),
        lineage: lineage.to_vec(),
        overlay: None,
        env: def.env.iter().map(|(name, env)| (name.clone(), env.value.clone())).collect(),
        git: def.git.iter().map(|(name, git)| (name.clone(), git.value.clone())).collect(),
        git_user,
        egress: Egress {
            routes: routes.map(|(host, route)| (host.clone(), route.value.clone())).collect(),
            rules: def.egress.rules.clone(),
        },
        workspace,
        supervise: def.supervise.unwrap_or(false),
        image: def.image.clone().unwrap_or(image),
        provider: def.provider.clone().unwrap_or(Provider::Claude),
        isolation: def.isolation.unwrap_or(Isolation::Auto),
        limits: Limits {
            cpus_milli: def.limits.cpus_milli.unwrap_or(limits.cpus_milli),
            memory_bytes: def.limits.memory_bytes.unwrap_or(limits.memory_bytes),
            pids: def.limits.pids.unwrap_or(limits.pids),
            shm_bytes: def.limits.shm_bytes.unwrap_or(limits.shm_bytes),
            time_seconds: def.limits.time_seconds.unwrap_or(limits.time_seconds),
            idle_seconds: def.limits.idle_seconds.unwrap_or(limits.idle_seconds),
        },
        repo_agents: def.repo_agents.unwrap_or(false),
        skills: def.skills.clone().unwrap_or_default(),
        pipelock: def.pipelock.clone(),
    })
}

/// The variable that holds the placeholder of a `claude_code_oauth` route.
const OAUTH_VARIABLE: &str = "CLAUDE_CODE_OAUTH_TOKEN";

fn oauth_routes(def: &BottleDef, findings: &mut Findings) {
    let oauth = |role| role == Some(RouteRole::ClaudeCodeOauth);
    let mut routes = def.egress.routes.iter().filter(|(_, route)| oauth(route.value.role));
    let Some((first, _)) = routes.next() else { return };
    for (_, route) in routes {
        let message = format!("a second route with role claude_code_oauth, besides `{first}`");
        findings.error(&route.spot, "duplicate-role", message);
    }
}

fn placeholders(def: &BottleDef, findings: &mut Findings) {
    for (host, route) in &def.egress.routes {
        let rules = route.value.allow.iter().filter_map(|rule| rule.auth.as_ref());
        let auths = route.value.auth.iter().chain(rules);
        let named = auths.filter_map(|auth| auth.placeholder.as_ref()).map(|name| name.as_str());
        let oauth =
            (route.value.role == Some(RouteRole::ClaudeCodeOauth)).then_some(OAUTH_VARIABLE);
        for variable in named.chain(oauth).collect::<BTreeSet<_>>() {
            let variable =
                EnvName::new(variable).ok().and_then(|name| def.env.get_key_value(&name));
            let Some((variable, env)) = variable else { continue };
            let message =
                format!("bottle itself sets `{variable}` (a placeholder of route `{host}`)");
            findings
                .error(&env.spot, "reserved-variable", message)
                .advise("leave the variable out: egress puts the credential in");
        }
    }
}

fn extra_hosts(def: &BottleDef, findings: &mut Findings) {
    let mut seen: BTreeMap<&str, (IpAddr, &Name)> = BTreeMap::new();
    for (name, remote) in &def.git {
        for (host, address) in &remote.value.extra_hosts {
            let (first, other) = *seen.entry(host).or_insert((*address, name));
            if first != *address {
                let message =
                    format!("`{host}` is {address} here and {first} in git entry `{other}`");
                findings.error(&remote.spot, "extra-hosts-conflict", message);
            }
        }
    }
}

fn workspace(def: &WorkspaceDef, findings: &mut Findings) -> WorkspacePolicy {
    use WorkspaceMode::{Clone, Copy, Mount, None as Nothing};
    let globs = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let modes = def.modes.clone().unwrap_or_else(|| [Copy, Clone, Nothing].into());
    if let Some(default) = &def.default
        && !modes.contains(&default.value)
    {
        let message = format!("the default mode `{}` is not among `modes`", default.value.as_str());
        findings.error(&default.spot, "default-mode", message);
    }
    // With both of them, the folder decides; else the mildest there is, `mount` only if alone.
    let automatic = modes.contains(&Clone) && modes.contains(&Copy);
    let fallback = [Clone, Copy, Nothing, Mount].into_iter().find(|mode| modes.contains(mode));
    let default = def.default.as_ref().map(|default| default.value);
    WorkspacePolicy {
        default: default.or(if automatic { None } else { fallback }),
        modes,
        hide: def.hide.clone().unwrap_or_else(|| globs(&[".env*"])),
        protect: def.protect.clone().unwrap_or_else(|| {
            globs(&[".bottle/**", ".husky/**", ".vscode/**", ".envrc", ".claude/settings*"])
        }),
    }
}
