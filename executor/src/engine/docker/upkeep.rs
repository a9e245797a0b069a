//! Keeping house, in Docker's words.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use bollard::models as api;
use bollard::query_parameters as query;
use bottle_planner::cleanup::{Image, Labelled, Sized};
use bottle_planner::plan::LABEL_OWNER;
use futures_util::try_join;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::{Address, Docker, listed_container, own_name, parse_address};
use crate::engine::EngineError;
use crate::engine::upkeep::{Inventory, Upkeep};

/// The most bytes of an answer about disk usage.
const MAX_USAGE: u64 = 64 << 20;
/// How long the engine may count: it walks every volume.
const COUNTING: Duration = Duration::from_secs(60);

impl Upkeep for Docker {
    async fn inventory(&self, owner: &str) -> Result<Inventory, EngineError> {
        let (all, networks, volumes, images) = try_join!(
            self.list_containers(),
            self.list_networks(),
            self.list_volumes(),
            self.owned_images(owner),
        )?;
        let sizes = self.container_sizes(owner).await?;
        let containers = all.into_iter().filter_map(|summary| {
            let name = summary.names.as_deref().and_then(own_name)?;
            let what = listed_container(summary);
            let bytes = sizes.get(&what.id).copied();
            Some((name, Sized { what, bytes }))
        });
        let owned = |labels: &BTreeMap<String, String>| {
            labels.get(LABEL_OWNER).is_some_and(|found| found == owner)
        };
        let usage = if volumes.values().any(|volume| owned(&volume.labels)) {
            self.volume_sizes().await
        } else {
            BTreeMap::new()
        };
        Ok(Inventory {
            containers: containers.collect(),
            networks: networks
                .into_iter()
                .map(|(name, found)| (name, Labelled { id: found.id, labels: found.labels }))
                .collect(),
            volumes: volumes
                .into_iter()
                .map(|(name, found)| {
                    let bytes = usage.get(&name).copied();
                    (name, Sized { what: found.labels, bytes })
                })
                .collect(),
            images,
        })
    }
}

impl Docker {
    /// What this owner's containers wrote, by id.
    async fn container_sizes(&self, owner: &str) -> Result<HashMap<String, u64>, EngineError> {
        let options = query::ListContainersOptionsBuilder::default()
            .all(true)
            .size(true)
            .filters(&label(owner))
            .build();
        let listed = self.slow.list_containers(Some(options)).await;
        let listed = listed.map_err(self.failed("list containers"))?;
        let sizes = listed
            .into_iter()
            .filter_map(|found| Some((found.id?, u64::try_from(found.size_rw.unwrap_or(0)).ok()?)));
        Ok(sizes.collect())
    }

    async fn owned_images(&self, owner: &str) -> Result<Vec<Sized<Image>>, EngineError> {
        let options = query::ListImagesOptionsBuilder::default().filters(&label(owner)).build();
        let listed = self.quick.list_images(Some(options)).await;
        let listed = listed.map_err(self.failed("list images"))?;
        let image = |found: api::ImageSummary| Sized {
            bytes: u64::try_from(found.size).ok(),
            what: Image {
                id: found.id,
                tags: found.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                labels: found.labels.into_iter().collect(),
                repo_digests: found
                    .repo_digests
                    .into_iter()
                    .filter(|digest| !digest.starts_with("<none>@"))
                    .collect(),
                created: found.created,
            },
        };
        Ok(listed.into_iter().map(image).collect())
    }

    /// What volumes hold. An engine that does not tell, or not in time, is none the worse for it.
    async fn volume_sizes(&self) -> BTreeMap<String, u64> {
        let address = Some(self.address.as_str());
        let Ok(address) = parse_address(address) else { return BTreeMap::new() };
        let path = match self.said.api {
            // From then on it can be asked for volumes alone.
            api if api >= (1, 42) => "/v1.42/system/df?type=volume",
            _ => "/v1.41/system/df",
        };
        let asked = async {
            match &address {
                Address::Socket(at) => ask(UnixStream::connect(at).await?, path).await,
                Address::Tcp(at) => ask(TcpStream::connect(at).await?, path).await,
            }
        };
        match tokio::time::timeout(COUNTING, asked).await {
            Ok(Ok(body)) => sizes(&body),
            _ => BTreeMap::new(),
        }
    }
}

fn label(owner: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{LABEL_OWNER}={owner}")])])
}

/// The body of an answer. bollard 0.21 keeps of this one only what API 1.52 has; HTTP/1.0, so that
/// the body comes in one piece and ends with the connection.
async fn ask(mut engine: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: engine\r\nUser-Agent: bottle\r\n\r\n");
    engine.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    engine.take(MAX_USAGE).read_to_end(&mut answer).await?;
    let at = answer.windows(4).position(|end| end == b"\r\n\r\n");
    let at = at.ok_or(io::ErrorKind::InvalidData)?;
    Ok(answer.split_off(at + 4))
}

/// The sizes in an answer; -1 says that the engine does not know.
fn sizes(body: &[u8]) -> BTreeMap<String, u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Usage {
        volumes: Option<Vec<Volume>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Volume {
        name: String,
        usage_data: Option<Data>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Data {
        size: i64,
    }
    let Ok(usage) = serde_json::from_slice::<Usage>(body) else { return BTreeMap::new() };
    let size = |volume: Volume| Some((volume.name, u64::try_from(volume.usage_data?.size).ok()?));
    usage.volumes.unwrap_or_default().into_iter().filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn volumes_and_what_they_hold() {
        let (near, mut far) = tokio::io::duplex(1024);
        let engine = async {
            let mut request = [0; 4];
            far.read_exact(&mut request).await.expect("a request");
            let body = r#"{"LayersSize":1,"Volumes":[{"Name":"a","UsageData":{"RefCount":0,
                "Size":7}},{"Name":"b","UsageData":{"Size":-1,"RefCount":-1}},{"Name":"c"}]}"#;
            let answer = format!("HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\n{body}");
            far.write_all(answer.as_bytes()).await.expect("taken");
            drop(far);
        };
        let (body, ()) = futures_util::join!(ask(near, "/v1.41/system/df"), engine);
        let found = sizes(&body.expect("a body"));
        assert_eq!(found, BTreeMap::from([("a".to_owned(), 7)]));
        assert!(sizes(b"{\"message\":\"no\"}").is_empty() && sizes(b"torn").is_empty());
    }
}
