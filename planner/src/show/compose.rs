//! A plan's topology as a Compose model, to be looked at or compared; `apply` does not use it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use crate::plan::{ContainerSpec, GuardKind, Mount, Operation, Plan};
use crate::sidecar::{BIN, HIDDEN_FILE, HIDDEN_FOLDER, IN, OUT};

/// The Compose model as a value; the caller writes it as YAML.
///
/// Host paths appear as `${BOTTLE_STATE}` and `${BOTTLE_BIN}`: a plan does not know them.
#[must_use]
pub fn compose(plan: &Plan) -> Value {
    let mut services = Map::new();
    let mut networks = Map::new();
    let mut volumes = Map::new();
    for action in &plan.actions {
        match &action.op {
            Operation::Container(spec) => {
                services.insert(spec.role.to_string(), service(spec, plan));
            }
            Operation::Network(spec) => {
                let mut network = json!({
                    "name": spec.name,
                    "internal": spec.internal,
                    "ipam": {"config": [{"subnet": spec.subnet.to_string()}]},
                });
                if spec.internal {
                    network["driver_opts"] =
                        json!({"com.docker.network.bridge.inhibit_ipv4": "true"});
                }
                networks.insert(spec.name.clone(), network);
            }
            Operation::Volume(spec) => {
                volumes.insert(spec.name.clone(), json!({"name": spec.name}));
            }
            _ => {}
        }
    }
    json!({
        "name": format!("bottle-{}", plan.identity),
        "services": services,
        "networks": networks,
        "volumes": volumes,
    })
}

fn service(spec: &ContainerSpec, plan: &Plan) -> Value {
    let mut networks = Map::new();
    networks.insert(spec.network.clone(), json!({"ipv4_address": spec.address.to_string()}));
    for action in &plan.actions {
        if let Operation::Connect(connect) = &action.op
            && connect.container == spec.name
        {
            networks.insert(
                connect.network.clone(),
                json!({"ipv4_address": connect.address.to_string()}),
            );
        }
    }
    let limits = &spec.limits;
    let tmpfs: Vec<String> = spec
        .tmpfs
        .iter()
        .map(|(path, size)| {
            let (uid, gid) = (spec.user.uid, spec.user.gid);
            let access = if path.as_str() == "/tmp" {
                "mode=1777".to_string()
            } else {
                format!("mode=0700,uid={uid},gid={gid}")
            };
            format!("{path}:size={size},{access}")
        })
        .collect();
    let hosts: Vec<String> =
        spec.extra_hosts.iter().map(|(host, ip)| format!("{host}:{ip}")).collect();
    let mut service = json!({
        "container_name": spec.name,
        "image": spec.image,
        "user": format!("{}:{}", spec.user.uid, spec.user.gid),
        "entrypoint": spec.argv,
        "environment": spec.env,
        "working_dir": spec.workdir.to_string(),
        "networks": networks,
        "extra_hosts": hosts,
        "volumes": spec.mounts.iter().map(|m| mount(m, spec)).collect::<Vec<_>>(),
        "tmpfs": tmpfs,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "ipc": "private",
        "read_only": spec.read_only,
        "cpus": format!("{}.{:03}", limits.cpus_milli / 1000, limits.cpus_milli % 1000),
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "pids_limit": limits.pids,
        "shm_size": limits.shm_bytes,
        "tty": spec.terminal,
        "stdin_open": spec.terminal,
        "labels": spec.labels,
    });
    if let Some(dns) = spec.dns {
        service["dns"] = json!([dns.to_string()]);
    }
    if let Some(runtime) = &spec.runtime {
        service["runtime"] = json!(runtime);
    }
    service
}

fn mount(mount: &Mount, spec: &ContainerSpec) -> Value {
    let bind = |source: String, target: &str, read_only: bool| json!({"type": "bind", "source": source, "target": target, "read_only": read_only});
    let role = spec.role;
    match mount {
        Mount::In => bind(format!("${{BOTTLE_STATE}}/{role}/in"), IN, true),
        Mount::Out => bind(format!("${{BOTTLE_STATE}}/{role}/out"), OUT, false),
        Mount::Bin { tool } => bind(format!("${{BOTTLE_BIN}}/{}", tool.hex()), BIN, true),
        Mount::ResolvConf => {
            bind(format!("${{BOTTLE_STATE}}/{role}/in/resolv.conf"), "/etc/resolv.conf", true)
        }
        Mount::Workspace { path } => bind(path.to_string(), path.as_str(), false),
        Mount::Guard { path, guard, folder } => match guard {
            GuardKind::Hold => bind(path.to_string(), path.as_str(), false),
            GuardKind::Protect => bind(path.to_string(), path.as_str(), true),
            GuardKind::Hide => {
                let empty = if *folder { HIDDEN_FOLDER } else { HIDDEN_FILE };
                bind(format!("${{BOTTLE_STATE}}/agent/in/{empty}"), path.as_str(), true)
            }
        },
        Mount::Volume { name, at } => {
            json!({"type": "volume", "source": name, "target": at.to_string()})
        }
    }
}
