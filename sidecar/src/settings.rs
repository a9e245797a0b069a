//! Reading the settings files that the planner rendered.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bottle_planner::sidecar::PROTOCOL;
use bottle_planner::words::Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// More than this is no settings file.
const LARGEST: u64 = 8 << 20;

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: larger than {LARGEST} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{}: expected protocol {PROTOCOL}, found {found}", path.display())]
    Protocol { path: PathBuf, found: u32 },
    #[error("{}: {reason}", path.display())]
    Value { path: PathBuf, reason: String },
}

/// A settings file and the digest of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Loaded<T> {
    pub(crate) value: T,
    pub(crate) digest: Digest,
}

/// Reads a file, checks its protocol number and then its shape.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, SettingsError> {
    parse(path, &read(path)?)
}

/// The same for a file that was read.
pub(crate) fn parse<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<Loaded<T>, SettingsError> {
    #[derive(Deserialize)]
    struct Numbered {
        protocol: u32,
    }
    let fault = |source| SettingsError::Parse { path: path.into(), source };
    let Numbered { protocol } = serde_json::from_slice(bytes).map_err(fault)?;
    if protocol != PROTOCOL {
        return Err(SettingsError::Protocol { path: path.into(), found: protocol });
    }
    let value = serde_json::from_slice(bytes).map_err(fault)?;
    Ok(Loaded { value, digest: Digest::of(bytes) })
}

/// A file's bytes, up to a bound.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SettingsError> {
    let error = |source| SettingsError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(error)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > LARGEST {
        return Err(SettingsError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// The plan that the executor last applied here; decisions are logged with it.
pub(crate) fn applied(input: &Path) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Applied {
        plan: Digest,
    }
    let bytes = read(&input.join("applied.json")).ok()?;
    serde_json::from_slice::<Applied>(&bytes).ok().map(|applied| applied.plan)
}
